# SPDX-License-Identifier: MIT
"""Build `shared.embedded.native._embedded`: the embedded hypervisor's client side and entries."""

from __future__ import annotations

from cffi import FFI

FOLDER = "shared/embedded/native"

ffi = FFI()
ffi.cdef(
    """
    struct embedded;
    struct hv_copy {
        void *local;
        uint32_t ref;
        uint16_t offset, length, to_guest;
        int16_t status;
    };
    struct hv_ops { ...; };

    int embedded_open(const char *path, uint16_t domid, struct embedded **out);
    void embedded_close(struct embedded *handle);
    int embedded_call(struct embedded *handle, uint16_t op, uint16_t domid, uint32_t argument);
    int embedded_create_domain(struct embedded *handle, uint16_t wanted, uint32_t pages,
                               const char *name, int *memory, int *lifeline);
    int embedded_query(struct embedded *handle, uint16_t op, char *text, uint32_t size);
    void embedded_fill_ops(struct hv_ops *ops, struct embedded *evtchn, struct embedded *gnttab);

    int embedded_evtchn_fd(struct embedded *handle);
    int embedded_alloc_unbound(struct embedded *handle, uint16_t domid);
    int embedded_bind_interdomain(struct embedded *handle, uint16_t domid, uint32_t port);
    int embedded_unbind(struct embedded *handle, uint32_t port);
    int embedded_notify(struct embedded *handle, uint32_t port);
    int embedded_pending(struct embedded *handle);
    int embedded_unmask(struct embedded *handle, uint32_t port);
    int embedded_cause_spurious(struct embedded *handle, uint32_t port);

    void *embedded_map(struct embedded *handle, uint16_t domid, const uint32_t *refs,
                       uint32_t count, int writable, int16_t *statuses);
    int embedded_unmap(struct embedded *handle, void *address, uint32_t count);
    int embedded_copy(struct embedded *handle, uint16_t domid, struct hv_copy *elements,
                      uint32_t count);

    int embedded_grant_pin(uintptr_t entry, uint16_t domid, int writable, uint32_t pages,
                           uint32_t *frame);
    void embedded_grant_unpin(uintptr_t entry, uint16_t flags);
    void embedded_grant_set(uintptr_t entry, uint16_t flags, uint16_t domid, uint32_t frame);
    int embedded_grant_end_access(uintptr_t entry);
    void embedded_set_alive(uintptr_t header, uint32_t alive);

    /* For the test that compares this with protocol.py. */
    struct embedded_request { uint16_t op, domid; uint32_t argument, count; ...; };
    struct embedded_reply {
        int32_t error;
        uint32_t value, count, reserved;
        uint64_t serial;
        ...;
    };
    struct embedded_map_result { uint32_t frame; int32_t status; ...; };
    struct embedded_header {
        uint64_t magic;
        uint32_t alive, pages, grant_entries, domid;
        ...;
    };
    struct grant_entry_v1 { uint16_t flags, domid; uint32_t frame; ...; };
    #define EMBEDDED_ALLOC_UNBOUND ...
    #define EMBEDDED_RELEASE ...
    #define EMBEDDED_ANY_DOMID ...
    #define EMBEDDED_MAP_MAX ...
    #define EMBEDDED_TEXT_MAX ...
    #define EMBEDDED_PORTS_MAX ...
    #define EMBEDDED_MAGIC ...
    #define EMBEDDED_GRANT_FRAME ...
    #define EMBEDDED_GRANT_ENTRIES ...
    #define EMBEDDED_FIRST_FRAME ...
    #define EMBEDDED_FIRST_REF ...
    """
)
ffi.set_source(
    "shared.embedded.native._embedded",
    '#include "embedded.h"',
    sources=[f"{FOLDER}/{name}.c" for name in ("handle", "channels", "grants", "entry")],
    include_dirs=[".", FOLDER],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
