/* SPDX-License-Identifier: MIT */
/*
 * The client side of the embedded hypervisor. A handle is one connection to the socket of a
 * domain; it is what an open /dev/xen/evtchn or /dev/xen/gntdev is on Xen. When it is
 * closed, or its process dies, the hypervisor closes its ports and releases its mappings.
 *
 * Returns are a value >= 0 or -errno, unless said otherwise. -EPIPE: the hypervisor is gone.
 * Threads: ports may be made, closed and notified from any; grants and pending() belong to one.
 * cffi reads this file too: plain declarations only.
 */
#ifndef XENBACKD_EMBEDDED_H
#define XENBACKD_EMBEDDED_H

#include <stdint.h>

#include "protocol.h"
#include "shared/native/hv_ops.h"

struct embedded;

/* handle.c */
int embedded_open(const char *path, uint16_t domid, struct embedded **out);
void embedded_close(struct embedded *handle);
int embedded_call(struct embedded *handle, uint16_t op, uint16_t domid, uint32_t argument);
int embedded_create_domain(struct embedded *handle, uint16_t wanted, uint32_t pages,
                           const char *name, int *memory, int *lifeline);
int embedded_query(struct embedded *handle, uint16_t op, char *text, uint32_t size);
void embedded_fill_ops(struct hv_ops *ops, struct embedded *evtchn, struct embedded *gnttab);

/* channels.c */
int embedded_fd(struct embedded *handle);
int embedded_alloc_unbound(struct embedded *handle, uint16_t domid);
int embedded_bind_interdomain(struct embedded *handle, uint16_t domid, uint32_t port);
int embedded_unbind(struct embedded *handle, uint32_t port);
int embedded_notify(struct embedded *handle, uint32_t port);
int embedded_pending(struct embedded *handle);
int embedded_unmask(struct embedded *handle, uint32_t port);
int embedded_cause_spurious(struct embedded *handle, uint32_t port);

/* grants.c */
void *embedded_map(struct embedded *handle, uint16_t domid, const uint32_t *refs, uint32_t count,
                   int writable, int16_t *statuses);
int embedded_unmap(struct embedded *handle, void *address, uint32_t count);
int embedded_copy(struct embedded *handle, uint16_t domid, struct hv_copy *elements,
                  uint32_t count);

/* entry.c: for the hypervisor and for the domain itself */
int embedded_grant_pin(uintptr_t entry, uint16_t domid, int writable, uint32_t pages,
                       uint32_t *frame);
void embedded_grant_unpin(uintptr_t entry, uint16_t flags);
void embedded_grant_set(uintptr_t entry, uint16_t flags, uint16_t domid, uint32_t frame);
int embedded_grant_end_access(uintptr_t entry);
void embedded_set_alive(uintptr_t header, uint32_t alive);

#endif
