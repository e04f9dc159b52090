/* SPDX-License-Identifier: MIT */
/*
 * The guest's data pages of a batch (worker/plane/grants.h): each segment of each request gets an
 * address here, in a mapped page or in a bounce buffer; what was copied for a read goes back.
 *
 * Once sealed (the frontend has used as many references as its ring can hold at once, so an honest
 * one needs no others), a request with a reference that is not mapped gets an error.
 */
#include <string.h>

#include "blk_internal.h"

_Static_assert(BOUNCE_MAX <= PLANE_BOUNCE_MAX, "the plane has as many buffers");

int grants_attach(struct blk_dev *dev, bool persistent)
{
    uint32_t limit = persistent ? dev->config.max_persistent : 0;
    int error = plane_bounce_open(&dev->bounce, BOUNCE_MAX, BOUNCE_BYTES);

    if (error)
        return error;
    error = plane_grants_open(&dev->grants, limit, BATCH_SEGMENTS);
    if (error)
        plane_bounce_close(&dev->bounce);
    return error;
}

/* The segment's place in the request's bounce buffer: page s, same offset, so alignment holds. */
static void bounce(struct blk_dev *dev, struct request *request, uint32_t s)
{
    struct segment *segment = &request->segment[s];

    if (request->bounce < 0)
        request->bounce = plane_bounce_take(&dev->bounce); /* no batch is longer than there are */
    segment->bounced = true;
    segment->data = plane_bounce_at(&dev->bounce, request->bounce) + (size_t)s * HV_PAGE_SIZE +
                    segment->offset;
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

static uint32_t add_copies(struct blk_dev *dev, struct request *request, uint32_t used,
                           uint16_t to_guest)
{
    for (uint32_t s = 0; s < request->segments; s++) {
        struct segment *segment = &request->segment[s];

        if (!segment->bounced)
            continue;
        dev->copy[used] = (struct hv_copy){
            .local = segment->data,
            .ref = segment->ref,
            .offset = segment->offset,
            .length = segment->length,
            .to_guest = to_guest,
            .status = HV_GNT_GENERAL_ERROR,
        };
        dev->copy_owner[used++] = request;
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
    plane_grants_copy(&dev->grants, dev->copy, count);
    for (uint32_t i = 0; i < count; i++) {
        if (dev->copy[i].status != HV_GNT_OKAY)
            fail(dev, dev->copy_owner[i]);
    }
}

/* Give the request's segments addresses. False: it failed, one is not mapped and cannot be had. */
static bool place_segments(struct blk_dev *dev, struct request *request)
{
    const struct plane_grants *grants = &dev->grants;

    for (uint32_t s = 0; s < request->segments; s++) {
        struct segment *segment = &request->segment[s];
        uint8_t *page = grants->table ? plane_grants_page(grants, segment->ref) : NULL;

        if (page) {
            segment->data = page + segment->offset;
        } else if (grants->sealed) {
            fail(dev, request);
            return false;
        } else {
            bounce(dev, request, s);
        }
    }
    return true;
}

bool grants_sealable(const struct blk_dev *dev)
{
    const struct plane_grants *grants = &dev->grants;
    uint32_t most = dev->ring.slots * BLKIF_MAX_SEGMENTS;

    return dev->attached && grants->table && !grants->sealed &&
           grants->entries >= (most < grants->limit ? most : grants->limit) &&
           dev->bounce.free == BOUNCE_MAX;
}

/* Give every segment of the batch an address here; what a write needs is there afterwards. */
void grants_prepare(struct blk_dev *dev, struct request **batch, uint32_t count)
{
    uint32_t copies = 0;

    if (dev->grants.table) {
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t s = 0; s < batch[i]->segments; s++)
                plane_grants_want(&dev->grants, batch[i]->segment[s].ref);
        }
        plane_grants_map(&dev->grants);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct request *request = batch[i];

        if (!place_segments(dev, request))
            continue;
        build_vector(request);
        if (request->operation == BLKIF_OP_WRITE)
            copies = add_copies(dev, request, copies, 0);
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
            copies = add_copies(dev, request, copies, 1);
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
    if (request->bounce >= 0)
        plane_bounce_give(&dev->bounce, request->bounce);
    request->bounce = -1;
}

int grants_detach(struct blk_dev *dev)
{
    int error = plane_grants_close(&dev->grants);

    plane_bounce_close(&dev->bounce);
    return error;
}
