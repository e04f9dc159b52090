# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    HV_PAGE_SIZE: int
    HV_GNT_OKAY: int
    EMBEDDED_ANY_DOMID: int
    EMBEDDED_MAP_MAX: int
    EMBEDDED_TEXT_MAX: int
    EMBEDDED_PORTS_MAX: int
    EMBEDDED_MAGIC: int
    EMBEDDED_GRANT_FRAME: int
    EMBEDDED_GRANT_ENTRIES: int
    EMBEDDED_FIRST_FRAME: int
    EMBEDDED_FIRST_REF: int
    GTF_TYPE_MASK: int
    GTF_PERMIT_ACCESS: int
    GTF_READONLY: int
    GTF_READING: int
    GTF_WRITING: int
    EMBEDDED_ALLOC_UNBOUND: int
    EMBEDDED_BIND_INTERDOMAIN: int
    EMBEDDED_CLOSE_PORT: int
    EMBEDDED_RESTRICT: int
    EMBEDDED_ATTACH: int
    EMBEDDED_MAP: int
    EMBEDDED_UNMAP: int
    EMBEDDED_SET_MAX_GRANTS: int
    EMBEDDED_CREATE_DOMAIN: int
    EMBEDDED_DESTROY_DOMAIN: int
    EMBEDDED_LIST_DOMAINS: int
    EMBEDDED_STATS: int
    EMBEDDED_RELEASE: int
    def embedded_open(
        self,
        path: CData | bytes,
        domid: int,
        out: CData | list[CData],
        /,
    ) -> int: ...
    def embedded_close(self, handle: CData, /) -> None: ...
    def embedded_call(self, handle: CData, op: int, domid: int, argument: int, /) -> int: ...
    def embedded_create_domain(
        self,
        handle: CData,
        wanted: int,
        pages: int,
        name: CData | bytes,
        memory: CData | list[int],
        lifeline: CData | list[int],
        /,
    ) -> int: ...
    def embedded_query(self, handle: CData, op: int, text: CData | bytes, size: int, /) -> int: ...
    def embedded_fill_ops(self, ops: CData, evtchn: CData, gnttab: CData, /) -> None: ...
    def embedded_fd(self, handle: CData, /) -> int: ...
    def embedded_alloc_unbound(self, handle: CData, domid: int, /) -> int: ...
    def embedded_bind_interdomain(self, handle: CData, domid: int, port: int, /) -> int: ...
    def embedded_unbind(self, handle: CData, port: int, /) -> int: ...
    def embedded_notify(self, handle: CData, port: int, /) -> int: ...
    def embedded_pending(self, handle: CData, /) -> int: ...
    def embedded_unmask(self, handle: CData, port: int, /) -> int: ...
    def embedded_cause_spurious(self, handle: CData, port: int, /) -> int: ...
    def embedded_map(
        self,
        handle: CData,
        domid: int,
        refs: CData | list[int],
        count: int,
        writable: int,
        statuses: CData | list[int],
        /,
    ) -> CData: ...
    def embedded_unmap(self, handle: CData, address: CData | bytes, count: int, /) -> int: ...
    def embedded_copy(self, handle: CData, domid: int, elements: CData, count: int, /) -> int: ...
    def embedded_grant_pin(
        self,
        entry: int,
        domid: int,
        writable: int,
        pages: int,
        frame: CData | list[int],
        /,
    ) -> int: ...
    def embedded_grant_unpin(self, entry: int, flags: int, /) -> None: ...
    def embedded_grant_set(self, entry: int, flags: int, domid: int, frame: int, /) -> None: ...
    def embedded_grant_end_access(self, entry: int, /) -> int: ...
    def embedded_set_alive(self, header: int, alive: int, /) -> None: ...

ffi: FFI
lib: _Lib
