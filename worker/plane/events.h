/* SPDX-License-Identifier: MIT */
/* One event channel: sending events, taking those that came, and what is told of both. */
#ifndef XENBACKD_PLANE_EVENTS_H
#define XENBACKD_PLANE_EVENTS_H

#include <stdint.h>

#include "shared/native/hv_ops.h"

struct plane_events {
    const struct hv_ops *hv;
    uint32_t port;       /* ours, while a frontend is attached */
    uint32_t stray_port; /* the last one that was not ours */
    /* They count on from one frontend to the next. */
    uint64_t wakeups, strays, notifies, notify_errors;
};

/* Take the pending ports; ours is unmasked afterwards. 0, or -errno: the handle broke. */
int plane_events_take(struct plane_events *events);

/* Send an event. */
void plane_events_notify(struct plane_events *events);

#endif
