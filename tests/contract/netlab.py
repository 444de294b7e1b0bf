"""What test_net.py works with: a host and a world as network namespaces, guests that are hand-made frames on real TAPs,
and netdrive, the program that calls daemon/net."""
import fcntl
import os
import queue
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from host import Failed, Namespace, wait_for  # noqa: E402  pylint: disable=wrong-import-position

TOP = Path(__file__).resolve().parents[2]
NETDRIVE = Path(os.environ.get("FCM_BUILD", TOP / "build")) / "tests/contract/netdrive"

POOL, GATEWAY = "172.16.0.0/24", "172.16.0.1"
UPLINK, WORLD = "10.99.0.1", "10.99.0.2"  # both ends of the veth
INTERNET, METADATA = "10.98.0.1", "169.254.169.254"  # on the world's loopback
HOST_MAC = "02:fc:00:00:00:01"
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
VNET_HDR = bytes(10)
ICMP, TCP, UDP = 1, 6, 17
WAIT = 0.5  # how long a packet may take that crosses a namespace or two; on an idle machine it takes 0.1 ms


def mac_of(ip):
    return "02:fc:" + ":".join(f"{int(b):02x}" for b in ip.split("."))


def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(src, dst, proto, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0, socket.inet_aton(src),
                       socket.inet_aton(dst))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def with_checksum(src, dst, proto, segment, at):
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, proto, len(segment))
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment)) + segment[at + 2:]


def udp(src, dst, sport, dport, data):
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    return ip_packet(src, dst, UDP, with_checksum(src, dst, UDP, head + data, 6))


def tcp_syn(src, dst, sport, dport, mss=1460):
    head = struct.pack("!HHIIBBHHHBBH", sport, dport, 1, 0, 6 << 4, 2, 65535, 0, 0, 2, 4, mss)
    return ip_packet(src, dst, TCP, with_checksum(src, dst, TCP, head, 16))


def ping(src, dst, seq=1, data=b"fcm"):
    body = struct.pack("!BBHHH", 8, 0, 0, 77, seq) + data
    return ip_packet(src, dst, ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


class Ip:
    """A received IPv4 packet."""

    def __init__(self, data):
        self.data = data
        self.proto = data[9]
        self.src, self.dst = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
        self.body = data[(data[0] & 15) * 4:struct.unpack("!H", data[2:4])[0]]

    @property
    def ports(self):
        return struct.unpack("!HH", self.body[:4])

    @property
    def icmp(self):
        return self.body[0], self.body[1]

    @property
    def tcp_flags(self):
        return self.body[13]

    @property
    def mss(self):
        return struct.unpack("!H", self.body[22:24])[0]


def first(receive, wanted, wait=WAIT):
    """The first packet of receive(timeout) that is wanted, or None."""
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        packet = receive(left)
        if packet is not None and wanted(packet):
            return packet
    return None


class Guest:
    """The far end of a VM's TAP, as a VMM has it."""

    def __init__(self, host, vm_id, ip):
        self.host, self.id, self.ip, self.tap = host, vm_id, ip, f"tap_{vm_id}"
        self.mac = mac_of(ip)
        self.fd = host.inside(self.attach)

    def attach(self):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", self.tap.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        return fd

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def frame(self, ethertype, payload, mac=None, to=HOST_MAC):
        os.write(self.fd, VNET_HDR + mac_bytes(to) + mac_bytes(mac or self.mac) + struct.pack("!H", ethertype) + payload)

    def send(self, packet, mac=None):
        self.frame(0x0800, packet, mac)

    def receive_frame(self, timeout):
        if not select.select([self.fd], [], [], max(timeout, 0))[0]:
            return None
        return os.read(self.fd, 65536)[len(VNET_HDR):]

    def receive(self, timeout):
        frame = self.receive_frame(timeout)
        return Ip(frame[14:]) if frame and frame[12:14] == b"\x08\x00" else None

    def drain(self):
        while self.receive_frame(0):
            pass

    def ping(self, dst, **kwargs):
        """Does an echo request get its reply?"""
        self.drain()
        self.send(ping(self.ip, dst, **kwargs))
        return first(self.receive, lambda p: p.proto == ICMP and p.src == dst and p.icmp == (0, 0)) is not None

    def connects(self, dst, port, sport=40000):
        """Does a SYN get a SYN-ACK?"""
        self.drain()
        self.send(tcp_syn(self.ip, dst, sport, port))
        # by its ports: the answers to earlier SYNs are sent again
        return first(self.receive, lambda p: p.proto == TCP and p.src == dst and p.ports == (port, sport)
                     and p.tcp_flags & 0x12 == 0x12) is not None

    def arp(self, ip):
        """The MAC that answers for `ip`, or None."""
        self.drain()
        head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        self.frame(0x0806, head + mac_bytes(self.mac) + socket.inet_aton(self.ip) + bytes(6) + socket.inet_aton(ip),
                   to="ff:ff:ff:ff:ff:ff")
        reply = first(self.receive_frame, lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\0\x02"
                      and f[28:32] == socket.inet_aton(ip))
        return reply and reply[22:28].hex(":")


class Sniffer:
    """Sees the IPv4 packets that come in by an interface of a namespace."""

    def __init__(self, ns, interface):
        def make():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            sock.bind((interface, 0x0800))
            return sock
        self.sock = ns.inside(make)

    def receive(self, timeout):
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data, source = self.sock.recvfrom(65536)
        except TimeoutError:
            return None
        return Ip(data) if source[2] != socket.PACKET_OUTGOING else None

    def close(self):
        self.sock.close()


class Drive:
    """netdrive in a namespace."""

    def __init__(self, ns):
        self.child = subprocess.Popen([*ns.enter, NETDRIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # pylint: disable=consider-using-with
        self.answers, self.events = queue.Queue(), queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            line = line.rstrip("\n")
            (self.events if line.startswith("event ") else self.answers).put(line)

    def ask(self, *words, timeout=60):
        """Run a command; its lines and its last line, "ok" or "error ..."."""
        self.child.stdin.write(" ".join(map(str, words)) + "\n")
        self.child.stdin.flush()
        lines = []
        while True:
            line = self.answers.get(timeout=timeout)
            if not line.startswith("= "):
                return lines, line
            lines.append(line[2:])

    def ok(self, *words, timeout=60):
        lines, last = self.ask(*words, timeout=timeout)
        if last != "ok":
            raise Failed(f"{words}: {last}")
        return lines

    def error(self, *words):
        _, last = self.ask(*words)
        assert last.startswith("error "), f"{words}: {last}"
        return last[len("error "):]

    def event(self, pattern, timeout=2.0):
        """The first event from now on that has `pattern` in it."""
        end = time.monotonic() + timeout
        seen = []
        while (left := end - time.monotonic()) > 0:
            try:
                line = self.events.get(timeout=left)
            except queue.Empty:
                break
            if re.search(pattern, line):
                return line
            seen.append(line)
        raise Failed(f"no event {pattern!r}, but {seen}")

    def no_event(self, wait=0.3):
        time.sleep(wait)
        assert self.events.empty(), self.events.get()

    def close(self):
        self.child.stdin.close()
        status = self.child.wait(20)
        assert status == 0, f"netdrive ended with status {status}"


class Lab:
    """A host with an uplink and, behind it, a world that answers on a few addresses."""

    def __init__(self, folder):
        self.host, self.world = Namespace(), Namespace()
        self.state = Path(folder)
        self.guests = []
        self.drive = None
        for ns in (self.host, self.world):
            ns.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
            ns.run("ip", "link", "set", "lo", "up")
        self.host.run("ip", "link", "add", "ext0", "type", "veth", "peer", "name", "eth0", "netns", self.world.pid)
        self.host.run("ip", "addr", "add", f"{UPLINK}/24", "dev", "ext0")
        self.host.run("ip", "addr", "add", "fd99::1/64", "dev", "ext0", "nodad")
        self.host.run("ip", "link", "set", "ext0", "up")
        self.world.run("ip", "addr", "add", f"{WORLD}/24", "dev", "eth0")
        for address in (INTERNET, METADATA):
            self.world.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
        self.world.run("ip", "link", "set", "eth0", "up")
        self.host.run("ip", "route", "add", "default", "via", WORLD)
        for ns in (self.host, self.world):
            ns.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        for name in ("all", "ext0"):
            self.host.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0", f"net.ipv4.conf.{name}.forwarding=0")
        wait_for("IPv6 has done what it does by itself", lambda: self.host.run("ip", "-6", "addr").stdout.count("fe80")
                 and "tentative" not in self.host.run("ip", "-6", "addr").stdout, 5)
        self.start()

    def namespace(self, link, here, there):
        """A second network of the host's, which doesn't forward there either."""
        ns = Namespace()
        ns.run("ip", "link", "set", "lo", "up")
        self.host.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", ns.pid)
        self.host.run("ip", "addr", "add", f"{here}/24", "dev", link)
        self.host.run("ip", "link", "set", link, "up")
        self.host.run("sysctl", "-qw", f"net.ipv4.conf.{link}.forwarding=0")
        ns.run("ip", "addr", "add", f"{there}/24", "dev", "eth0")
        ns.run("ip", "link", "set", "eth0", "up")
        ns.run("ip", "route", "add", "default", "via", here)
        return ns

    def start(self):
        self.drive = Drive(self.host)

    def init(self, *rest):
        self.drive.ok("init", POOL, GATEWAY, self.state, *rest)

    def guest(self, vm_id, ip):
        """A VM with all its parts, and its far end."""
        self.drive.ok("up", vm_id, ip, 64000)
        guest = Guest(self.host, vm_id, ip)
        self.guests.append(guest)
        return guest

    def nft(self, *argv):
        return self.host.run("nft", *argv).stdout

    def drop_rule(self, chain, pattern):
        """Take the one rule of a chain away that has `pattern` in it."""
        found = re.findall(rf"^.*{pattern}.*# handle (\d+)$", self.nft("-a", "list", "chain", "inet", "fcm", chain), re.M)
        assert len(found) == 1, f"{len(found)} rules of {chain} match {pattern!r}"
        self.nft("delete", "rule", "inet", "fcm", chain, "handle", found[0])

    def snapshot(self):
        """All that net_down() must leave as it was."""
        parts = [self.nft("list", "ruleset")]
        for what in (["-d", "link"], ["addr"], ["route", "show", "table", "all"], ["-6", "route", "show", "table", "all"],
                     ["neigh", "show", "nud", "permanent"], ["rule"]):
            shown = self.host.run("ip", *what).stdout
            parts.append(re.sub(r" state (UP|UNKNOWN) ", " ", shown))  # which, depends on the history of the link
        parts.append(self.host.run("sh", "-c", "cd /proc/sys/net/ipv4/conf; grep . */forwarding */proxy_arp */rp_filter").stdout)
        parts.append("\n".join(sorted(p.name for p in self.state.iterdir())))
        return "\n".join(parts)

    def udp_server(self, ns, ip, port):
        def make():
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((ip, port))
            sock.settimeout(WAIT)
            return sock
        return ns.inside(make)

    def close(self):
        for guest in self.guests:
            guest.close()
        try:
            self.drive.close()
        finally:
            self.host.close()
            self.world.close()


def receives(sock, send):
    """Does the UDP socket receive something when send() is called?"""
    send()
    try:
        return sock.recvfrom(2048)
    except TimeoutError:
        return None
