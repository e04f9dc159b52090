/* SPDX-License-Identifier: MIT */
/*
 * The hypervisor as a data plane in C sees it: a table of calls over one event-channel handle and
 * one grant-table handle. The embedded hypervisor and real Xen each fill one in
 * (shared/hypervisor/interface.py: Handles.native_ops). No two threads may call into it at once,
 * except notify().
 *
 * Return values: 0 or a count on success, -errno on failure, unless said otherwise.
 */
#ifndef XENBACKD_HV_OPS_H
#define XENBACKD_HV_OPS_H

#include <stdint.h>

#define HV_PAGE_SIZE 4096u

/* Status of one grant operation (xen/include/public/grant_table.h, GNTST_*). */
#define HV_GNT_OKAY 0
#define HV_GNT_GENERAL_ERROR (-1)
#define HV_GNT_BAD_DOMAIN (-2)
#define HV_GNT_BAD_GNTREF (-3)
#define HV_GNT_PERMISSION_DENIED (-8)
#define HV_GNT_BAD_COPY_ARG (-10)

/* One element of a copy between local memory and a granted page. offset + length <= page. */
struct hv_copy {
    void *local;
    uint32_t ref;
    uint16_t offset;
    uint16_t length;
    uint16_t to_guest; /* 0: granted page -> local; 1: local -> granted page */
    int16_t status;    /* out: HV_GNT_* */
};

struct hv_ops {
    void *evtchn;
    void *gnttab;

    /* The descriptor to poll for events. */
    int (*evtchn_fd)(void *evtchn);
    int (*notify)(void *evtchn, uint32_t port);
    /* A pending port (now masked), or -EAGAIN. */
    int (*pending)(void *evtchn);
    int (*unmask)(void *evtchn, uint32_t port);

    /* Run all elements; each gets its status. 0 if the call itself worked. */
    int (*copy)(void *gnttab, uint16_t domid, struct hv_copy *elements, uint32_t count);
    /*
     * Map count references into one area: each in a page of its own, in order. All or nothing;
     * NULL on failure with statuses filled in (may be NULL) and errno set.
     */
    void *(*map)(void *gnttab, uint16_t domid, const uint32_t *refs, uint32_t count, int writable,
                 int16_t *statuses);
    int (*unmap)(void *gnttab, void *address, uint32_t count);
};

#endif
