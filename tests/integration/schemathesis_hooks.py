"""What schemathesis shall not send (test_schemathesis.py): a question whose answer never ends, or one for another protocol."""
import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.query:
        case.query.pop("follow", None)
    for name in [name for name in case.headers or {} if name.lower() in ("upgrade", "connection")]:
        del case.headers[name]
