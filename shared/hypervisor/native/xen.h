/* SPDX-License-Identifier: MIT */
/*
 * Real Xen for the data planes: libxenevtchn and libxengnttab, opened at run time. No header of
 * Xen is needed to build this; what is declared here is the libraries' stable ABI
 * (tools/include/xenevtchn.h, xengnttab.h, xentoollog.h).
 *
 * Return values: as in hv_ops.h, -errno on failure.
 */
#ifndef XENBACKD_XEN_H
#define XENBACKD_XEN_H

#include <stdint.h>

#include "shared/native/hv_ops.h"

/* Elements handed to the kernel in one call; a longer list takes several. */
#define XEN_COPY_BATCH 512

/* The calls of libxenevtchn; `handle` is an xenevtchn_handle. -1 and errno on failure. */
struct xen_evtchn_calls {
    void *(*open)(void *logger, unsigned int flags);
    int (*close)(void *handle);
    int (*fd)(void *handle);
    int (*notify)(void *handle, uint32_t port);
    int (*bind_unbound_port)(void *handle, uint32_t domid);
    int (*bind_interdomain)(void *handle, uint32_t domid, uint32_t remote_port);
    int (*unbind)(void *handle, uint32_t port);
    int (*pending)(void *handle);
    int (*unmask)(void *handle, uint32_t port);
    int (*restrict_domid)(void *handle, uint16_t domid);
};

union xen_copy_end {
    void *virt;
    struct {
        uint32_t ref;
        uint16_t offset;
        uint16_t domid;
    } foreign;
};

/* xengnttab_grant_copy_segment_t */
struct xen_copy_segment {
    union xen_copy_end source, dest;
    uint16_t len;
    uint16_t flags;
    int16_t status;
};

#define XEN_COPY_SOURCE_GREF 1u
#define XEN_COPY_DEST_GREF 2u

/* The calls of libxengnttab; `handle` is an xengnttab_handle. NULL or -1, and errno, on failure. */
struct xen_gnttab_calls {
    void *(*open)(void *logger, unsigned int flags);
    int (*close)(void *handle);
    int (*set_max_grants)(void *handle, uint32_t count);
    void *(*map_domain_grant_refs)(void *handle, uint32_t count, uint32_t domid, uint32_t *refs,
                                   int protection);
    int (*unmap)(void *handle, void *address, uint32_t count);
    int (*grant_copy)(void *handle, uint32_t count, struct xen_copy_segment *segments);
};

struct xen_evtchn {
    struct xen_evtchn_calls calls;
    void *handle;
};

struct xen_area {
    struct xen_area *next;
    void *address;
    uint32_t count;
};

struct xen_gnttab {
    struct xen_gnttab_calls calls;
    void *handle;
    struct xen_area *areas;
    /* Scratch of one copy call. */
    struct xen_copy_segment segments[XEN_COPY_BATCH];
    uint32_t index[XEN_COPY_BATCH];
};

/* Find the library and its calls; NULL on success, else what is missing (until the next load). */
const char *xen_evtchn_load(const char *name, struct xen_evtchn_calls *out);
const char *xen_gnttab_load(const char *name, struct xen_gnttab_calls *out);

int xen_evtchn_open(const struct xen_evtchn_calls *calls, struct xen_evtchn **out);
void xen_evtchn_close(struct xen_evtchn *evtchn);
int xen_evtchn_fd(struct xen_evtchn *evtchn);
int xen_evtchn_alloc_unbound(struct xen_evtchn *evtchn, uint16_t domid);
int xen_evtchn_bind_interdomain(struct xen_evtchn *evtchn, uint16_t domid, uint32_t remote_port);
int xen_evtchn_unbind(struct xen_evtchn *evtchn, uint32_t port);
int xen_evtchn_notify(struct xen_evtchn *evtchn, uint32_t port);
/* A pending port, now masked, or -EAGAIN. Never waits. */
int xen_evtchn_pending(struct xen_evtchn *evtchn);
int xen_evtchn_unmask(struct xen_evtchn *evtchn, uint32_t port);
int xen_evtchn_restrict(struct xen_evtchn *evtchn, uint16_t domid);

int xen_gnttab_open(const struct xen_gnttab_calls *calls, struct xen_gnttab **out);
/* Unmaps what is still mapped: the mappings would outlive the descriptor. */
void xen_gnttab_close(struct xen_gnttab *gnttab);
int xen_gnttab_set_max_grants(struct xen_gnttab *gnttab, uint32_t count);
void *xen_gnttab_map(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                     uint32_t count, int writable, int16_t *statuses);
int xen_gnttab_unmap(struct xen_gnttab *gnttab, void *address, uint32_t count);
int xen_gnttab_copy(struct xen_gnttab *gnttab, uint16_t domid, struct hv_copy *elements,
                    uint32_t count);

/* The libraries' logger (struct xentoollog_logger): says nothing. */
void *xen_silence(void);

/* Fill in the table for a data plane; `gnttab` may be NULL where no grants are used. */
void xen_fill_ops(struct hv_ops *ops, struct xen_evtchn *evtchn, struct xen_gnttab *gnttab);

#endif
