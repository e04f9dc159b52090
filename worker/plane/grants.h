/* SPDX-License-Identifier: MIT */
/*
 * A guest's pages: kept mapped from their first use, or copied.
 *
 * Kept mapped (a limit above 0): a table leads from reference to address. A batch first names all
 * its references (plane_grants_want), then those it is the first to use are mapped by one call
 * (plane_grants_map), then each is looked up (plane_grants_page). What cannot be mapped (table
 * full, granted read-only, not granted) has no address and goes by copy.
 *
 * Copied: all elements of a batch in one call, each with a status of its own.
 *
 * Sealed: nothing new is mapped any more; the caller must not copy either, and may then give up
 * the right to do so.
 *
 * A reference that could not be mapped is remembered as such, so a bad one costs one attempt.
 */
#ifndef XENBACKD_PLANE_GRANTS_H
#define XENBACKD_PLANE_GRANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/native/hv_ops.h"

struct plane_grant {
    uint32_t ref;
    bool used;
    uint8_t *page; /* NULL: could not be mapped */
};

struct plane_grant_area {
    void *address;
    uint32_t count;
};

struct plane_grants {
    const struct hv_ops *hv;
    uint16_t domid;
    bool sealed;
    uint32_t limit;   /* references the table can hold */
    uint32_t mask;    /* entries of the table - 1 */
    uint32_t entries; /* used ones */
    uint32_t mapped;
    struct plane_grant *table; /* NULL: nothing is kept mapped */
    struct plane_grant_area *areas;
    uint32_t area_count;
    /* Scratch of one batch. */
    uint32_t batch, missing_count;
    uint32_t *missing;
    int16_t *status;
    /* Calls to the hypervisor; they count on from one frontend to the next. */
    uint64_t maps, copies;
};

/*
 * For a new frontend. `limit`: pages that may stay mapped, 0 for none; `batch`: references one
 * batch names at most. 0 or -errno; hv and domid are the caller's to set, once.
 */
int plane_grants_open(struct plane_grants *grants, uint32_t limit, uint32_t batch);

/* Map what the batch was the first to name; without plane_grants_want there is nothing to do. */
void plane_grants_map(struct plane_grants *grants);

/* Run all elements in one call. Each has a status afterwards, also if the call itself failed. */
void plane_grants_copy(struct plane_grants *grants, struct hv_copy *elements, uint32_t count);

/* Give everything back. 0, or the first error of an unmapping. */
int plane_grants_close(struct plane_grants *grants);

/* The entry of the reference, or the free one where it belongs. */
static inline struct plane_grant *plane_grants_find(const struct plane_grants *grants, uint32_t ref)
{
    uint32_t at = (ref * 2654435761u) & grants->mask;

    while (grants->table[at].used && grants->table[at].ref != ref)
        at = (at + 1) & grants->mask;
    return &grants->table[at];
}

/* The batch uses the reference: if it was never seen, it gets an entry, still without a page. */
static inline void plane_grants_want(struct plane_grants *grants, uint32_t ref)
{
    struct plane_grant *entry = plane_grants_find(grants, ref);

    if (entry->used || grants->sealed || grants->entries >= grants->limit ||
        grants->missing_count >= grants->batch)
        return;
    *entry = (struct plane_grant){.ref = ref, .used = true, .page = NULL};
    grants->entries++;
    grants->missing[grants->missing_count++] = ref;
}

/* Where the page is mapped, or NULL. */
static inline uint8_t *plane_grants_page(const struct plane_grants *grants, uint32_t ref)
{
    const struct plane_grant *entry = plane_grants_find(grants, ref);

    return entry->used ? entry->page : NULL;
}

#endif
