/* SPDX-License-Identifier: MIT */
/* Event channels, see events.h. */
#include "worker/plane/events.h"

#include <errno.h>

/* Pending ports taken per wake-up. We have one, so all others are strays. */
#define PORTS_MAX 8

int plane_events_take(struct plane_events *events)
{
    const struct hv_ops *hv = events->hv;

    for (int i = 0; i < PORTS_MAX; i++) {
        int port = hv->pending(hv->evtchn);

        if (port == -EAGAIN)
            return 0;
        if (port < 0)
            return port;
        if ((uint32_t)port != events->port) {
            /* Stays masked, so it cannot come again; the caller writes the error line. */
            events->strays++;
            events->stray_port = (uint32_t)port;
            continue;
        }
        events->wakeups++;
        /* Before the ring is looked at: what comes after that look sends another event. */
        if (hv->unmask(hv->evtchn, events->port) < 0)
            return -EIO;
    }
    return 0;
}

void plane_events_notify(struct plane_events *events)
{
    events->notifies++;
    /* A guest that closed its port loses its events; that the ring is still served is harmless. */
    if (events->hv->notify(events->hv->evtchn, events->port) < 0)
        events->notify_errors++;
}
