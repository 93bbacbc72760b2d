"""A filter of system calls, which needs no privileges: Linux on x86-64 and 64-bit ARM.

It refuses what opens a network, what looks into other processes, and parts of the kernel that no pure Python program needs. Sockets are
refused even where the process has a network of its own, since some kinds of socket (vsock) do not belong to one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from tutelage.sandbox.inside import kernel

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets within the kernel's struct seccomp_data; the low half of the argument
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

REFUSED = {  # name: (number on x86-64, number on 64-bit ARM)
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "syslog": (103, 116),
    "quotactl": (179, 60), "migrate_pages": (256, 238), "move_pages": (279, 239), "personality": (135, 92),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
}  # fmt: skip
SHARED_FILES = {  # what the file rules of Landlock leave open: attributes of files that the user owns
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "chmod": (90, None), "chown": (92, None), "lchown": (94, None), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
}  # fmt: skip
SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_NAMESPACES = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
)  # fmt: skip

_Instruction = tuple[int, int, int, int]


def close(shared: bool) -> None:
    """Refuse the calls above to this process and its children, for good.

    shared: the process shares its process ids and files with the rest of the machine, so signals to any process but itself and changes
    of files' attributes are refused too. Raises OSError where the kernel or the processor has no such filter.
    """
    if kernel.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls is written for the processor {os.uname().machine}")
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program(kernel.machine(), shared, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HL", len(code) // 8, ctypes.addressof(buffer)))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, header)


def program(machine: str, shared: bool, pid: int) -> list[_Instruction]:
    """The filter as instructions of the Berkeley packet filter: (operation, jump if true, jump if false, value)."""
    column = list(_ARCHITECTURES).index(machine)
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    absent = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    lines: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in [*REFUSED.values(), *(SHARED_FILES.values() if shared else ())]:
        if (number := numbers[column]) is not None:
            lines += [(_EQUAL, 0, 1, number), refuse]
    lines += [(_EQUAL, 0, 1, _CLONE3), absent]  # its flags cannot be seen; the C library then falls back to clone
    lines += [
        (_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _NAMESPACES),
        refuse,
        (_RETURN, 0, 0, _ALLOW),
    ]
    if shared:
        lines += _only_itself(_PRLIMIT[machine], (0, pid), refuse)
        for numbers in SIGNALS.values():
            lines += _only_itself(numbers[column], (0, pid), refuse)
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _only_itself(number: int, allowed: tuple[int, int], refuse: _Instruction) -> list[_Instruction]:
    """Let a call through where its first argument is one of two process ids (0: itself, or its own group)."""
    allow = (_RETURN, 0, 0, _ALLOW)
    first, second = allowed
    return [(_EQUAL, 0, 5, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, first), (_EQUAL, 0, 1, second), allow, refuse]
