/* SPDX-License-Identifier: MIT */
/*
 * The guest's data pages.
 *
 * persistent: a page stays mapped from its first use to the detach; a table leads from reference
 *   to address. All references a batch is the first to use are mapped by one call. Whatever cannot
 *   be mapped (table full, granted read-only, not granted) goes by copy, whose status per element
 *   then decides over its request alone.
 * copy: all segments of a batch in one call, before the writes and after the reads.
 *
 * sealed: the frontend has used as many references as its ring can hold at once, so an honest one
 *   needs no others. From then on nothing is mapped or copied: the caller takes the right to from
 *   this process, and a request with another reference gets an error.
 *
 * A reference that could not be mapped is remembered as such, so bad ones cost one attempt.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "blk_internal.h"

int grants_attach(struct blk_dev *dev, bool persistent)
{
    struct grants *grants = &dev->grants;
    uint32_t size = 16;

    memset(grants, 0, sizeof(*grants));
    grants->bounce = mmap(NULL, (size_t)BOUNCE_MAX * BOUNCE_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (grants->bounce == MAP_FAILED) {
        grants->bounce = NULL;
        return -errno;
    }
    /* A stack, lowest on top: few requests at a time touch little memory. */
    for (uint32_t i = 0; i < BOUNCE_MAX; i++)
        grants->bounce_stack[i] = (int16_t)(BOUNCE_MAX - 1 - i);
    grants->bounce_free = BOUNCE_MAX;
    grants->limit = dev->config.max_persistent;
    grants->persistent = persistent && grants->limit > 0;
    if (!grants->persistent)
        return 0;
    while (size < 2 * grants->limit) /* at most half full: short probes */
        size *= 2;
    grants->mask = size - 1;
    grants->table = calloc(size, sizeof(*grants->table));
    grants->areas = calloc(grants->limit, sizeof(*grants->areas));
    if (!grants->table || !grants->areas) {
        grants_detach(dev);
        return -ENOMEM;
    }
    return 0;
}

/* The entry of the reference, or the free one where it belongs. */
static struct grant_entry *find(struct grants *grants, uint32_t ref)
{
    uint32_t at = (ref * 2654435761u) & grants->mask;

    while (grants->table[at].used && grants->table[at].ref != ref)
        at = (at + 1) & grants->mask;
    return &grants->table[at];
}

/* Collect the references of the batch that were never seen; they get an entry without a page. */
static uint32_t collect_missing(struct grants *grants, struct request **batch, uint32_t count)
{
    uint32_t missing = 0;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t s = 0; s < batch[i]->segments; s++) {
            uint32_t ref = batch[i]->segment[s].ref;
            struct grant_entry *entry = find(grants, ref);

            if (entry->used || grants->sealed || grants->entries >= grants->limit)
                continue;
            *entry = (struct grant_entry){.ref = ref, .used = true, .page = NULL};
            grants->entries++;
            grants->missing[missing++] = ref;
        }
    }
    return missing;
}

/* Keep only the references whose status says that they were not the reason of the failure. */
static uint32_t drop_failed(struct grants *grants, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (grants->status[i] == HV_GNT_OKAY)
            grants->missing[kept++] = grants->missing[i];
    }
    return kept;
}

static void map_missing(struct blk_dev *dev, uint32_t count)
{
    const struct hv_ops *hv = dev->config.hv;
    struct grants *grants = &dev->grants;
    uint8_t *area = NULL;

    /* All or nothing per call: once more without those that failed, then they go by copy. */
    for (int attempt = 0; attempt < 2 && count && !area; attempt++) {
        memset(grants->status, 0, count * sizeof(grants->status[0]));
        dev->count.grant_maps++;
        area = hv->map(hv->gnttab, dev->config.domid, grants->missing, count, 1, grants->status);
        if (!area)
            count = drop_failed(grants, count);
    }
    if (!area)
        return;
    for (uint32_t i = 0; i < count; i++)
        find(grants, grants->missing[i])->page = area + (size_t)i * HV_PAGE_SIZE;
    grants->areas[grants->area_count++] = (struct grant_area){area, count};
    grants->mapped += count;
}

/* The segment's place in the request's bounce buffer: page s, same offset, so alignment holds. */
static void bounce(struct grants *grants, struct request *request, uint32_t s)
{
    struct segment *segment = &request->segment[s];

    if (request->bounce < 0) {
        /* The batch was made no longer than there are buffers. */
        request->bounce = grants->bounce_stack[--grants->bounce_free];
        grants->bounce_used = true;
    }
    segment->bounced = true;
    segment->data = grants->bounce + (size_t)request->bounce * BOUNCE_BYTES +
                    (size_t)s * HV_PAGE_SIZE + segment->offset;
}

static void build_vector(struct request *request)
{
    uint8_t used = 0;

    for (uint32_t s = 0; s < request->segments; s++) {
        struct segment *segment = &request->segment[s];
        struct iovec *last = used ? &request->vector[used - 1] : NULL;

        if (last && (uint8_t *)last->iov_base + last->iov_len == segment->data)
            last->iov_len += segment->length;
        else
            request->vector[used++] = (struct iovec){segment->data, segment->length};
    }
    request->vectors = used;
}

static uint32_t add_copies(struct grants *grants, struct request *request, uint32_t used,
                           uint16_t to_guest)
{
    for (uint32_t s = 0; s < request->segments; s++) {
        struct segment *segment = &request->segment[s];

        if (!segment->bounced)
            continue;
        grants->copy[used] = (struct hv_copy){
            .local = segment->data,
            .ref = segment->ref,
            .offset = segment->offset,
            .length = segment->length,
            .to_guest = to_guest,
            .status = HV_GNT_GENERAL_ERROR,
        };
        grants->copy_owner[used++] = request;
    }
    return used;
}

static void fail(struct blk_dev *dev, struct request *request)
{
    if (request->status == BLKIF_RSP_OKAY)
        dev->count.grant_errors++;
    request->status = BLKIF_RSP_ERROR;
}

static void run_copies(struct blk_dev *dev, uint32_t count)
{
    const struct hv_ops *hv = dev->config.hv;
    struct grants *grants = &dev->grants;
    int result;

    if (!count)
        return;
    dev->count.grant_copies++;
    result = hv->copy(hv->gnttab, dev->config.domid, grants->copy, count);
    for (uint32_t i = 0; i < count; i++) {
        if (result < 0 || grants->copy[i].status != HV_GNT_OKAY)
            fail(dev, grants->copy_owner[i]);
    }
}

/* Give the request's segments addresses. False: it failed, one is not mapped and cannot be had. */
static bool place_segments(struct blk_dev *dev, struct request *request)
{
    struct grants *grants = &dev->grants;

    for (uint32_t s = 0; s < request->segments; s++) {
        struct segment *segment = &request->segment[s];
        struct grant_entry *entry = grants->persistent ? find(grants, segment->ref) : NULL;

        if (entry && entry->used && entry->page) {
            segment->data = entry->page + segment->offset;
        } else if (grants->sealed) {
            fail(dev, request);
            return false;
        } else {
            bounce(grants, request, s);
        }
    }
    return true;
}

bool grants_sealable(const struct blk_dev *dev)
{
    const struct grants *grants = &dev->grants;
    uint32_t most = dev->ring.slots * BLKIF_MAX_SEGMENTS;

    return dev->attached && grants->persistent && !grants->sealed &&
           grants->entries >= (most < grants->limit ? most : grants->limit) &&
           grants->bounce_free == BOUNCE_MAX;
}

void blk_seal(struct blk_dev *dev)
{
    dev->grants.sealed = true;
}

/* Give every segment of the batch an address here; what a write needs is there afterwards. */
void grants_prepare(struct blk_dev *dev, struct request **batch, uint32_t count)
{
    struct grants *grants = &dev->grants;
    uint32_t copies = 0;

    if (grants->persistent) {
        uint32_t missing = collect_missing(grants, batch, count);
        if (missing)
            map_missing(dev, missing);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct request *request = batch[i];

        if (!place_segments(dev, request))
            continue;
        build_vector(request);
        if (request->operation == BLKIF_OP_WRITE)
            copies = add_copies(grants, request, copies, 0);
    }
    run_copies(dev, copies);
}

/* Copy what the reads in dev->ended_* brought to the guest; then they are done. */
void grants_finish_reads(struct blk_dev *dev)
{
    while (dev->ended_head) {
        struct request *first = dev->ended_head, *request = first;
        uint32_t copies = 0;

        for (uint32_t n = 0; request && n < BATCH_MAX; n++, request = request->next)
            copies = add_copies(&dev->grants, request, copies, 1);
        run_copies(dev, copies);
        for (struct request *next; first != request; first = next) {
            next = first->next; /* request_done puts it into another list */
            request_done(dev, first);
        }
        dev->ended_head = request;
    }
    dev->ended_tail = NULL;
}

void grants_release(struct blk_dev *dev, struct request *request)
{
    struct grants *grants = &dev->grants;

    if (request->bounce >= 0)
        grants->bounce_stack[grants->bounce_free++] = request->bounce;
    request->bounce = -1;
}

/* An idle disk gives the pages of its bounce buffers back to the host. */
void grants_trim(struct blk_dev *dev)
{
    struct grants *grants = &dev->grants;

    if (grants->bounce_used && grants->bounce_free == BOUNCE_MAX) {
        madvise(grants->bounce, (size_t)BOUNCE_MAX * BOUNCE_BYTES, MADV_DONTNEED);
        grants->bounce_used = false;
    }
}

int grants_detach(struct blk_dev *dev)
{
    const struct hv_ops *hv = dev->config.hv;
    struct grants *grants = &dev->grants;
    int result = 0;

    for (uint32_t i = 0; i < grants->area_count; i++) {
        int error = hv->unmap(hv->gnttab, grants->areas[i].address, grants->areas[i].count);
        if (error < 0 && !result)
            result = error;
    }
    free(grants->table);
    free(grants->areas);
    if (grants->bounce)
        munmap(grants->bounce, (size_t)BOUNCE_MAX * BOUNCE_BYTES);
    memset(grants, 0, sizeof(*grants));
    return result;
}
