/* SPDX-License-Identifier: MIT */
/* One piece of data or one command at a time, for a caller who waits. */
#include <errno.h>
#include <string.h>

#include "front.h"

#define REQUEST_SECTORS (BLKIF_MAX_SEGMENTS * BLKIF_SECTORS_PER_PAGE)

struct transfer {
    struct front *front;
    int write;
    uint64_t sector;
    uint64_t count;
    uint64_t asked;   /* sectors put into the ring so far */
    uint8_t *buffer;
    uint32_t pending; /* requests */
    int status;       /* first one that is not OKAY */
};

static void copy_pages(struct transfer *transfer, struct front_shadow *shadow, int to_guest)
{
    uint8_t *at = transfer->buffer + shadow->tag * BLKIF_SECTOR;
    uint32_t left = shadow->sectors * BLKIF_SECTOR;
    for (uint32_t i = 0; i < shadow->pages; i++) {
        uint8_t *page = transfer->front->pages[shadow->page[i]].address;
        uint32_t here = left < HV_PAGE_SIZE ? left : HV_PAGE_SIZE;
        memcpy(to_guest ? page : at, to_guest ? at : page, here);
        at += here;
        left -= here;
    }
}

static int ask(struct transfer *transfer)
{
    while (transfer->asked < transfer->count && !transfer->status) {
        uint64_t left = transfer->count - transfer->asked;
        uint32_t sectors = left < REQUEST_SECTORS ? (uint32_t)left : REQUEST_SECTORS;
        uint32_t pages = (sectors + BLKIF_SECTORS_PER_PAGE - 1) / BLKIF_SECTORS_PER_PAGE;
        if (!front_room(transfer->front, pages))
            break;
        struct front_shadow *shadow = front_take(transfer->front, pages);
        shadow->tag = transfer->asked;
        shadow->sectors = sectors;
        if (transfer->write)
            copy_pages(transfer, shadow, 1);
        front_put(transfer->front, shadow, transfer->write ? BLKIF_OP_WRITE : BLKIF_OP_READ,
                  transfer->sector + transfer->asked, sectors);
        transfer->asked += sectors;
        transfer->pending++;
    }
    return front_push(transfer->front);
}

static int reap(struct transfer *transfer)
{
    struct front_response response;
    int found;
    while ((found = front_next(transfer->front, &response)) > 0) {
        if (response.status != BLKIF_RSP_OKAY && !transfer->status)
            transfer->status = response.status;
        if (response.status == BLKIF_RSP_OKAY && !transfer->write && response.shadow->pages)
            copy_pages(transfer, response.shadow, 0);
        front_release(transfer->front, response.shadow);
        transfer->pending--;
    }
    return found;
}

static int finish(struct transfer *transfer, uint64_t poll_ns, uint64_t stall_ns, int *status)
{
    int failed = 0;
    *status = 0;
    while (!failed) {
        failed = ask(transfer);
        if (failed || !transfer->pending)
            break;
        int waited = front_wait(transfer->front, poll_ns, stall_ns, 1);
        failed = waited == 0 ? -ETIMEDOUT : waited < 0 ? waited : reap(transfer);
    }
    *status = transfer->status;
    if (failed)
        return failed;
    if (transfer->status)
        return -EIO;
    /* Nothing pending, but not all asked: there are not even pages for one request. */
    return transfer->asked < transfer->count ? -ENOBUFS : 0;
}

int front_transfer(struct front *front, int write, uint64_t sector, uint64_t count,
                   uint8_t *buffer, uint64_t poll_ns, uint64_t stall_ns, int *status)
{
    struct transfer transfer = {
        .front = front, .write = write, .sector = sector, .count = count, .buffer = buffer};
    front->run++;
    return finish(&transfer, poll_ns, stall_ns, status);
}

int front_command(struct front *front, int operation, uint64_t sector, uint64_t count,
                  uint64_t stall_ns, int *status)
{
    struct transfer transfer = {.front = front, .write = 1};
    front->run++;
    if (!front_room(front, 0))
        return -ENOBUFS;
    front_put_command(front, front_take(front, 0), operation, sector, count);
    transfer.pending = 1;
    return finish(&transfer, 0, stall_ns, status);
}
