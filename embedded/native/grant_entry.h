/* SPDX-License-Identifier: MIT */
/*
 * Grant entries, from both sides. The owner writes them while others read, so every access here
 * is one atomic load, store or compare-and-swap; what was read is a copy, and the entry is not
 * looked at again (xen/include/public/grant_table.h has the owner's order of writes).
 */
#ifndef XENBACKD_GRANT_ENTRY_H
#define XENBACKD_GRANT_ENTRY_H

#include <stdint.h>
#include <string.h>

#include "protocol.h"
#include "shared/native/hv_ops.h"

/* Read an entry at once: its 8 bytes are aligned. */
static inline struct grant_entry_v1 grant_entry_read(const struct grant_entry_v1 *entry)
{
    uint64_t word = __atomic_load_n((const uint64_t *)(const void *)entry, __ATOMIC_ACQUIRE);
    struct grant_entry_v1 copy;
    memcpy(&copy, &word, sizeof(copy));
    return copy;
}

/* May domain `domid` use the entry in this way? HV_GNT_OKAY or the reason. */
static inline int grant_entry_check(struct grant_entry_v1 untrusted_entry, uint16_t domid,
                                    int writable, uint32_t pages)
{
    if ((untrusted_entry.flags & GTF_TYPE_MASK) != GTF_PERMIT_ACCESS)
        return HV_GNT_BAD_GNTREF;
    if (untrusted_entry.domid != domid)
        return HV_GNT_PERMISSION_DENIED;
    if (writable && (untrusted_entry.flags & GTF_READONLY))
        return HV_GNT_PERMISSION_DENIED;
    if (untrusted_entry.frame < EMBEDDED_FIRST_FRAME || untrusted_entry.frame >= pages)
        return HV_GNT_BAD_GNTREF;
    return HV_GNT_OKAY;
}

/* Owner: offer a frame. The flags come last, because they make the rest count. */
static inline void grant_entry_set(struct grant_entry_v1 *entry, uint16_t flags, uint16_t domid,
                                   uint32_t frame)
{
    __atomic_store_n(&entry->frame, frame, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->domid, domid, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->flags, flags, __ATOMIC_RELEASE);
}

/* Owner: take a frame back; 0 if it is mapped (the entry then stays as it is). */
static inline int grant_entry_end_access(struct grant_entry_v1 *entry)
{
    uint16_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
    do {
        if (flags & (GTF_READING | GTF_WRITING))
            return 0;
    } while (!__atomic_compare_exchange_n(&entry->flags, &flags, 0, 0, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    return 1;
}

#endif
