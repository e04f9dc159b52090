/* SPDX-License-Identifier: MIT */
/* The ring from the frontend's side: shadows, pages, grants, requests out, responses in. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "shared/native/barrier.h"
#include "front.h"

/* xen/include/public/grant_table.h: struct grant_entry_v1 {u16 flags; u16 domid; u32 frame} */
#define GTF_PERMIT_ACCESS 1u
#define GTF_READONLY 4u
#define GTF_READING 8u
#define GTF_WRITING 16u
#define GRANT_ENTRY 8u

uint64_t front_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static volatile uint32_t *ring_index(const struct front *front, uint32_t offset)
{
    return (volatile uint32_t *)(void *)(front->params.ring + offset);
}

static void give_access(struct front *front, const struct front_page *page, int readonly)
{
    uint8_t *entry = front->params.grant_entries + (size_t)page->ref * GRANT_ENTRY;
    uint16_t flags = GTF_PERMIT_ACCESS | (readonly ? GTF_READONLY : 0);
    memcpy(entry + 2, &front->params.backend_domid, 2);
    memcpy(entry + 4, &page->frame, 4);
    /* The entry counts from the moment its flags do, so they come last. */
    __atomic_store_n((uint16_t *)(void *)entry, flags, __ATOMIC_RELEASE);
}

/* 0 revoked, -EBUSY the backend holds the page. */
static int end_access(struct front *front, const struct front_page *page)
{
    uint16_t *flags =
        (uint16_t *)(void *)(front->params.grant_entries + (size_t)page->ref * GRANT_ENTRY);
    uint16_t seen = __atomic_load_n(flags, __ATOMIC_RELAXED);
    do {
        if (seen & (GTF_READING | GTF_WRITING))
            return -EBUSY;
    } while (!__atomic_compare_exchange_n(flags, &seen, 0, 0, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    return 0;
}

void front_free_page(struct front *front, uint32_t page)
{
    uint32_t word = page / 64;
    front->free_pages[word] |= (uint64_t)1 << (page % 64);
    if (word < front->first_free)
        front->first_free = word;
    front->free_page_count++;
}

/* There is one: front_room said so. */
static uint32_t take_page(struct front *front)
{
    uint32_t word = front->first_free;
    while (!front->free_pages[word])
        word++;
    uint32_t page = word * 64 + (uint32_t)__builtin_ctzll(front->free_pages[word]);
    front->free_pages[word] &= front->free_pages[word] - 1;
    front->first_free = word;
    front->free_page_count--;
    return page;
}

struct front_shadow *front_take(struct front *front, uint32_t pages)
{
    struct front_shadow *shadow = &front->shadows[front->free_shadows[--front->free_shadow_count]];
    shadow->busy = 1;
    shadow->generation++;
    shadow->run = front->run;
    shadow->pages = (uint8_t)pages;
    for (uint32_t i = 0; i < pages; i++)
        shadow->page[i] = take_page(front);
    return shadow;
}

void front_release(struct front *front, struct front_shadow *shadow)
{
    for (uint32_t i = shadow->pages; i-- > 0;) {
        uint32_t page = shadow->page[i];
        /* A page the backend still holds must not be used again: retired. */
        if (!front->params.persistent && end_access(front, &front->pages[page])) {
            front->counters.grants_in_use++;
            continue;
        }
        front_free_page(front, page);
    }
    shadow->pages = 0;
    shadow->busy = 0;
    front->free_shadows[front->free_shadow_count++] = (uint32_t)(shadow - front->shadows);
}

static uint8_t *next_slot(struct front *front)
{
    uint32_t index = front->req_prod++ & (front->slots - 1);
    return front->params.ring + RING_HEADER + (size_t)index * front->layout.slot;
}

static void put_segments(struct front *front, struct front_shadow *shadow, uint8_t *segment)
{
    uint32_t left = shadow->sectors;
    for (uint32_t i = 0; i < shadow->pages; i++, segment += 8) {
        struct front_page *page = &front->pages[shadow->page[i]];
        uint32_t here = left < BLKIF_SECTORS_PER_PAGE ? left : BLKIF_SECTORS_PER_PAGE;
        if (!front->params.persistent)
            give_access(front, page, shadow->operation == BLKIF_OP_WRITE);
        memcpy(segment, &page->ref, 4);
        segment[4] = 0;
        segment[5] = (uint8_t)(here - 1);
        segment[6] = segment[7] = 0;
        left -= here;
    }
}

void front_put(struct front *front, struct front_shadow *shadow, int operation, uint64_t sector,
               uint32_t sectors)
{
    const struct blkif_layout *at = &front->layout;
    uint64_t id = (uint64_t)shadow->generation << 32 | (uint32_t)(shadow - front->shadows);
    uint8_t *slot = next_slot(front);

    shadow->operation = (uint8_t)operation;
    shadow->sector = sector;
    shadow->sectors = sectors;
    slot[0] = (uint8_t)operation;
    slot[1] = shadow->pages;
    memcpy(slot + 2, &front->params.handle, 2);
    if (at->id == 8)
        memset(slot + 4, 0, 4);
    memcpy(slot + at->id, &id, 8);
    memcpy(slot + at->sector, &sector, 8);
    put_segments(front, shadow, slot + at->segments);
    front->counters.requests++;
}

void front_put_command(struct front *front, struct front_shadow *shadow, int operation,
                       uint64_t sector, uint64_t count)
{
    uint32_t index = front->req_prod & (front->slots - 1);
    uint8_t *slot = front->params.ring + RING_HEADER + (size_t)index * front->layout.slot;
    front_put(front, shadow, operation, sector, 0);
    memcpy(slot + front->layout.segments, &count, 8);
}

int front_push(struct front *front)
{
    uint32_t old = front->published;
    uint32_t new = front->req_prod;

    if (new == old)
        return 0;
    store_release32(ring_index(front, RING_REQ_PROD), new);
    front->published = new;
    full_barrier();
    /* Only if the backend asked to be woken within what we have just published (ring.h). */
    if ((uint32_t)(new - load_acquire32(ring_index(front, RING_REQ_EVENT))) >= (uint32_t)(new - old))
        return 0;
    front->counters.notifies++;
    return front->params.ops->notify(front->params.ops->evtchn, front->params.port);
}

/* Read the producer index; -EPROTO when it is ahead of what was asked. */
static int look(struct front *front)
{
    uint32_t produced = load_acquire32(ring_index(front, RING_RSP_PROD));
    if ((uint32_t)(produced - front->rsp_cons) > (uint32_t)(front->published - front->rsp_cons)) {
        front->counters.bad_responses++;
        return -EPROTO;
    }
    front->rsp_seen = produced;
    return produced != front->rsp_cons;
}

int front_next(struct front *front, struct front_response *response)
{
    for (;;) {
        if (front->rsp_cons == front->rsp_seen) {
            int found = look(front);
            if (found <= 0)
                return found;
        }
        uint32_t index = front->rsp_cons & (front->slots - 1);
        const uint8_t *slot = front->params.ring + RING_HEADER + (size_t)index * front->layout.slot;
        uint64_t id;
        int16_t status;
        memcpy(&id, slot, 8);
        memcpy(&status, slot + 10, 2);
        front->rsp_cons++;
        front->counters.responses++;
        struct front_shadow *shadow = &front->shadows[(uint32_t)id & (front->slots - 1)];
        if ((uint32_t)id >= front->slots || !shadow->busy || shadow->generation != id >> 32) {
            front->counters.bad_responses++;
            return -EPROTO;
        }
        if (shadow->run != front->run) {
            front_release(front, shadow);
            continue;
        }
        response->shadow = shadow;
        response->status = status;
        return 1;
    }
}

/* Take the events that are there, so that the descriptor is quiet until the next. */
static int drain_events(struct front *front)
{
    const struct hv_ops *ops = front->params.ops;
    for (;;) {
        int port = ops->pending(ops->evtchn);
        if (port == -EAGAIN)
            return 0;
        if (port < 0)
            return port;
        front->counters.events++;
        int failed = ops->unmask(ops->evtchn, (uint32_t)port);
        if (failed)
            return failed;
    }
}

static int sleep_for(struct front *front, uint64_t timeout_ns, int stoppable)
{
    struct pollfd fds[2] = {
        {.fd = front->params.ops->evtchn_fd(front->params.ops->evtchn), .events = POLLIN},
        {.fd = front->stop_fd, .events = POLLIN},
    };
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000u),
                               (long)(timeout_ns % 1000000000u)};
    int ready = ppoll(fds, stoppable ? 2 : 1, &timeout, NULL);
    if (ready < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents & (POLLERR | POLLNVAL))
        return -EIO;
    return ready > 0 ? drain_events(front) : 0;
}

int front_wait(struct front *front, uint64_t poll_ns, uint64_t timeout_ns, int stoppable)
{
    int found = look(front);
    if (found)
        return found;
    uint64_t start = front_now();
    uint64_t now = start;

    while (!found && now - start < poll_ns) {
        for (int i = 0; i < 16 && !found; i++) {
            cpu_relax();
            found = look(front);
        }
        now = front_now();
    }
    while (!found) {
        if (stoppable && __atomic_load_n(&front->stop, __ATOMIC_RELAXED))
            return -EINTR;
        /* Ask for an event, then look again: a response may have come in between (ring.h,
         * RING_FINAL_CHECK_FOR_RESPONSES). */
        store_release32(ring_index(front, RING_RSP_EVENT), front->rsp_cons + 1);
        full_barrier();
        found = look(front);
        if (found)
            break;
        if (now - start >= timeout_ns)
            return 0;
        int failed = sleep_for(front, timeout_ns - (now - start), stoppable);
        if (failed)
            return failed;
        found = look(front);
        now = front_now();
    }
    return found;
}
