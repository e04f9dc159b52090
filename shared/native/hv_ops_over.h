/* SPDX-License-Identifier: MIT */
/*
 * A `struct hv_ops` over an implementation's own functions.
 *
 * HV_OPS_OVER(name, evtchn, gnttab) defines
 *     void name(struct hv_ops *ops, struct evtchn *evtchn, struct gnttab *gnttab)
 * which fills in the table with evtchn_fd, evtchn_notify, evtchn_pending, evtchn_unmask and
 * gnttab_copy, gnttab_map, gnttab_unmap. These take their own structure where the table's functions
 * take a void *, so there is a function in between for each: a call by a pointer of another type is
 * undefined. `gnttab` may be NULL where no grants are used.
 */
#ifndef XENBACKD_HV_OPS_OVER_H
#define XENBACKD_HV_OPS_OVER_H

#include "shared/native/hv_ops.h"

#define HV_OPS_OVER(name, evtchn_, gnttab_)                                                       \
    static int name##_fd(void *evtchn)                                                            \
    {                                                                                             \
        return evtchn_##_fd(evtchn);                                                              \
    }                                                                                             \
    static int name##_notify(void *evtchn, uint32_t port)                                         \
    {                                                                                             \
        return evtchn_##_notify(evtchn, port);                                                    \
    }                                                                                             \
    static int name##_pending(void *evtchn)                                                       \
    {                                                                                             \
        return evtchn_##_pending(evtchn);                                                         \
    }                                                                                             \
    static int name##_unmask(void *evtchn, uint32_t port)                                         \
    {                                                                                             \
        return evtchn_##_unmask(evtchn, port);                                                    \
    }                                                                                             \
    static int name##_copy(void *gnttab, uint16_t domid, struct hv_copy *elements, uint32_t count)\
    {                                                                                             \
        return gnttab_##_copy(gnttab, domid, elements, count);                                    \
    }                                                                                             \
    static void *name##_map(void *gnttab, uint16_t domid, const uint32_t *refs, uint32_t count,   \
                            int writable, int16_t *statuses)                                      \
    {                                                                                             \
        return gnttab_##_map(gnttab, domid, refs, count, writable, statuses);                     \
    }                                                                                             \
    static int name##_unmap(void *gnttab, void *address, uint32_t count)                          \
    {                                                                                             \
        return gnttab_##_unmap(gnttab, address, count);                                           \
    }                                                                                             \
    void name(struct hv_ops *ops, struct evtchn_ *evtchn, struct gnttab_ *gnttab)                 \
    {                                                                                             \
        *ops = (struct hv_ops){                                                                   \
            .evtchn = evtchn,                                                                     \
            .gnttab = gnttab,                                                                     \
            .evtchn_fd = name##_fd,                                                               \
            .notify = name##_notify,                                                              \
            .pending = name##_pending,                                                            \
            .unmask = name##_unmask,                                                              \
            .copy = name##_copy,                                                                  \
            .map = name##_map,                                                                    \
            .unmap = name##_unmap,                                                                \
        };                                                                                        \
    }

#endif
