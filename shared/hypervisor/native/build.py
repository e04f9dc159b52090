# SPDX-License-Identifier: MIT
"""Build `shared.hypervisor.native._xen`: libxenevtchn and libxengnttab, found at run time."""

from __future__ import annotations

from cffi import FFI

FOLDER = "shared/hypervisor/native"

ffi = FFI()
ffi.cdef(
    """
    struct hv_copy {
        void *local;
        uint32_t ref;
        uint16_t offset, length, to_guest;
        int16_t status;
    };
    struct hv_ops { ...; };
    struct xen_evtchn;
    struct xen_gnttab;
    struct xen_evtchn_calls { ...; };
    struct xen_gnttab_calls { ...; };

    const char *xen_evtchn_load(const char *name, struct xen_evtchn_calls *out);
    const char *xen_gnttab_load(const char *name, struct xen_gnttab_calls *out);

    int xen_evtchn_open(const struct xen_evtchn_calls *calls, struct xen_evtchn **out);
    void xen_evtchn_close(struct xen_evtchn *evtchn);
    int xen_evtchn_fd(struct xen_evtchn *evtchn);
    int xen_evtchn_alloc_unbound(struct xen_evtchn *evtchn, uint16_t domid);
    int xen_evtchn_bind_interdomain(struct xen_evtchn *evtchn, uint16_t domid, uint32_t port);
    int xen_evtchn_unbind(struct xen_evtchn *evtchn, uint32_t port);
    int xen_evtchn_notify(struct xen_evtchn *evtchn, uint32_t port);
    int xen_evtchn_pending(struct xen_evtchn *evtchn);
    int xen_evtchn_unmask(struct xen_evtchn *evtchn, uint32_t port);
    int xen_evtchn_restrict(struct xen_evtchn *evtchn, uint16_t domid);

    int xen_gnttab_open(const struct xen_gnttab_calls *calls, struct xen_gnttab **out);
    void xen_gnttab_close(struct xen_gnttab *gnttab);
    int xen_gnttab_set_max_grants(struct xen_gnttab *gnttab, uint32_t count);
    void *xen_gnttab_map(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                         uint32_t count, int writable, int16_t *statuses);
    int xen_gnttab_unmap(struct xen_gnttab *gnttab, void *address, uint32_t count);
    int xen_gnttab_copy(struct xen_gnttab *gnttab, uint16_t domid, struct hv_copy *elements,
                        uint32_t count);
    void xen_fill_ops(struct hv_ops *ops, struct xen_evtchn *evtchn, struct xen_gnttab *gnttab);

    /* For the test of its layout. */
    union xen_copy_end {
        void *virt;
        struct { uint32_t ref; uint16_t offset, domid; } foreign;
    };
    struct xen_copy_segment {
        union xen_copy_end source, dest;
        uint16_t len, flags;
        int16_t status;
    };
    #define XEN_COPY_BATCH ...
    """
)
ffi.set_source(
    "shared.hypervisor.native._xen",
    '#include "xen.h"',
    sources=[f"{FOLDER}/{name}.c" for name in ("xen_evtchn", "xen_gnttab")],
    depends=[f"{FOLDER}/xen.h", "shared/native/hv_ops.h"],
    include_dirs=[FOLDER],
    libraries=["dl"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
