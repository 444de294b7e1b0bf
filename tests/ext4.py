"""Reads an ext4 file system without mounting it, and without libext2fs, which wrote it: what is in it, name by name.

Only what our own file systems have: 4 KiB blocks, extents, linear directories, inodes of 256 bytes.
Format: the kernel's Documentation/filesystems/ext4.
"""
import hashlib
import os
import stat
import struct
from pathlib import Path

BLOCK = 4096
XATTR_MAGIC, EXTENT_MAGIC, EXTENTS_FLAG = 0xEA020000, 0xF30A, 0x80000
PREFIXES = {0: b"", 1: b"user.", 4: b"trusted.", 6: b"security.", 7: b"system."}


class Ext4:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.super = self.read(1024, 1024)
        self.inodes_per_group, = struct.unpack_from("<I", self.super, 40)

    def read(self, at, n):
        self.file.seek(at)
        return self.file.read(n)

    def inode(self, number):
        group, index = divmod(number - 1, self.inodes_per_group)
        table, = struct.unpack_from("<I", self.read(BLOCK + group * 32, 32), 8)
        return self.read(table * BLOCK + index * 256, 256)

    def extents(self, node):
        """(logical block, physical block, count) of each extent, of an extent tree's node."""
        magic, entries, _, depth, _ = struct.unpack_from("<HHHHI", node)
        assert magic == EXTENT_MAGIC
        for i in range(entries):
            a, b, c, d = struct.unpack_from("<IHHI", node, 12 + 12 * i)
            if depth:
                leaf, = struct.unpack_from("<I", node, 12 + 12 * i + 4)
                yield from self.extents(self.read(leaf * BLOCK, BLOCK))
            else:
                yield a, c << 32 | d, b

    def content(self, inode):
        """The bytes of a file as pieces (offset, bytes), without its holes."""
        for logical, physical, count in self.extents(inode[40:100]):
            yield logical * BLOCK, self.read(physical * BLOCK, count * BLOCK)

    def bytes_of(self, inode, size):
        data = bytearray(size)
        for at, piece in self.content(inode):
            piece = piece[:max(0, size - at)]
            data[at:at + len(piece)] = piece
        return bytes(data)

    @staticmethod
    def xattrs(area, first, base):
        """The attributes of an area: entries from `first` on, values counted from `base` on."""
        while area[first]:
            n, index, offset, _, size = struct.unpack_from("<BBHII", area, first)
            name = PREFIXES[index] + area[first + 16:first + 16 + n]
            yield name.decode(), area[base + offset:base + offset + size]
            first += (16 + n + 3) & ~3

    def all_xattrs(self, inode):
        result = {}
        if struct.unpack_from("<I", inode, 160)[0] == XATTR_MAGIC:
            result.update(self.xattrs(inode, 164, 164))
        block, = struct.unpack_from("<I", inode, 104)
        if block:
            result.update(self.xattrs(self.read(block * BLOCK, BLOCK), 32, 0))
        return result

    def names(self, inode, size):
        data = self.bytes_of(inode, size)
        at = 0
        while at < len(data):
            number, length, n = struct.unpack_from("<IHB", data, at)
            name = data[at + 8:at + 8 + n]
            if number and name not in (b".", b".."):
                yield name, number
            at += length

    def facts(self, number):
        """What a guest would see of an inode, a dict."""
        inode = self.inode(number)
        mode, uid, low, _, _, mtime, _, gid, links = struct.unpack_from("<HHIIIiIHH", inode)
        high, = struct.unpack_from("<I", inode, 108)
        extra, = struct.unpack_from("<I", inode, 136)
        uid, gid = uid | struct.unpack_from("<H", inode, 120)[0] << 16, gid | struct.unpack_from("<H", inode, 122)[0] << 16
        size = high << 32 | low
        facts = {"mode": mode, "uid": uid, "gid": gid, "mtime": mtime + ((extra & 3) << 32), "ns": extra >> 2,
                 "xattrs": self.all_xattrs(inode), "inode": number, "links": links}
        if stat.S_ISREG(mode):
            facts["size"] = size
            facts["sha256"] = self.digest(inode, size)
        elif stat.S_ISLNK(mode):
            mapped = struct.unpack_from("<I", inode, 32)[0] & EXTENTS_FLAG
            facts["target"] = self.bytes_of(inode, size) if mapped else inode[40:40 + size]
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            old, new = struct.unpack_from("<II", inode, 40)
            facts["device"] = (old >> 8, old & 255) if old else (new >> 8 & 0xfff, new & 255 | new >> 12 & 0xfff00)
        elif stat.S_ISDIR(mode):
            facts["names"] = dict(self.names(inode, size))
        return facts

    def digest(self, inode, size):
        """Of the whole content; of a very large file, which is one hole, only its size."""
        if size > 1 << 30:
            return None
        return hashlib.sha256(self.bytes_of(inode, size)).hexdigest()

    def tree(self):
        """{path: facts} of everything; the root is b""."""
        result, todo = {}, [(b"", 2)]
        while todo:
            path, number = todo.pop()
            result[path] = facts = self.facts(number)
            todo += [(path + b"/" + name, child) for name, child in facts.pop("names", {}).items()]
        return result


def on_disk(path, name=b"", result=None):
    """What Ext4.tree() would say of a directory of the host."""
    result = {} if result is None else result
    st = os.lstat(path)
    facts = {"mode": st.st_mode, "uid": st.st_uid, "gid": st.st_gid, "mtime": st.st_mtime_ns // 10**9, "ns": st.st_mtime_ns % 10**9,
             "xattrs": {x: os.getxattr(path, x, follow_symlinks=False) for x in os.listxattr(path, follow_symlinks=False)},
             "inode": st.st_ino, "links": st.st_nlink}
    if stat.S_ISREG(st.st_mode):
        facts.update(size=st.st_size, sha256=hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest())
    elif stat.S_ISLNK(st.st_mode):
        facts["target"] = os.readlink(path)
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        facts["device"] = os.major(st.st_rdev), os.minor(st.st_rdev)
    result[name] = facts
    if stat.S_ISDIR(st.st_mode):
        for child in os.listdir(path):
            on_disk(path + b"/" + child, name + b"/" + child, result)
    return result


def comparable(tree):
    """Inode numbers as the set of names that share one. umoci dates directories to the whole second, and those that no layer
    has as it likes; a directory's links are the file system's business."""
    same = {}
    for name, facts in tree.items():
        same.setdefault(facts["inode"], set()).add(name)
    result = {}
    for name, facts in tree.items():
        facts = dict(facts, inode=same[facts["inode"]])
        if stat.S_ISDIR(facts["mode"]):
            for key in ("mtime", "ns", "links", "inode"):
                del facts[key]
        result[name] = facts
    return result
