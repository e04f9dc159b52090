/* SPDX-License-Identifier: MIT */
/* Birth and death of a frontend ring, what others ask about it, and the raw access of tests. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shared/native/barrier.h"
#include "front.h"

struct front *front_open(const struct front_params *params)
{
    struct front *front;

    if (params->order > BLKIF_MAX_RING_ORDER || (params->bits != 64 && params->bits != 32)) {
        errno = EINVAL;
        return NULL;
    }
    front = calloc(1, sizeof *front);
    if (!front)
        return NULL;
    front->params = *params;
    front->layout = params->bits == 64 ? BLKIF_64 : BLKIF_32;
    front->slots = blkif_ring_slots(&front->layout, params->order);
    front->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    front->shadows = calloc(front->slots, sizeof *front->shadows);
    front->free_shadows = calloc(front->slots, sizeof *front->free_shadows);
    if (front->stop_fd < 0 || !front->shadows || !front->free_shadows) {
        front_close(front);
        return NULL;
    }
    for (uint32_t i = front->slots; i-- > 0;)
        front->free_shadows[front->free_shadow_count++] = i;
    /* SHARED_RING_INIT of ring.h: both sides ask to be woken by the first entry. */
    memset(params->ring, 0, RING_HEADER);
    front->req_prod = front->published = front->rsp_cons = front->rsp_seen = params->first_index;
    front_raw_poke(front, RING_REQ_PROD, params->first_index);
    front_raw_poke(front, RING_REQ_EVENT, params->first_index + 1);
    front_raw_poke(front, RING_RSP_PROD, params->first_index);
    front_raw_poke(front, RING_RSP_EVENT, params->first_index + 1);
    return front;
}

void front_close(struct front *front)
{
    if (!front)
        return;
    if (front->stop_fd >= 0)
        close(front->stop_fd);
    free(front->pages);
    free(front->free_pages);
    free(front->shadows);
    free(front->free_shadows);
    free(front);
}

int front_add_pages(struct front *front, uint8_t **addresses, const uint32_t *refs,
                    const uint32_t *frames, uint32_t count)
{
    size_t total = (size_t)front->page_count + count;
    for (uint32_t i = 0; i < count; i++) {
        if (refs[i] >= front->params.grant_count)
            return -EINVAL;
    }
    struct front_page *pages = realloc(front->pages, total * sizeof *pages);
    if (!pages)
        return -ENOMEM;
    front->pages = pages;
    size_t words = (total + 63) / 64, before = (front->page_count + (size_t)63) / 64;
    uint64_t *free_pages = realloc(front->free_pages, words * sizeof *free_pages);
    if (!free_pages)
        return -ENOMEM;
    memset(free_pages + before, 0, (words - before) * sizeof *free_pages);
    front->free_pages = free_pages;
    for (uint32_t i = 0; i < count; i++) {
        pages[front->page_count] = (struct front_page){addresses[i], refs[i], frames[i]};
        front_free_page(front, front->page_count++);
    }
    return 0;
}

uint32_t front_pages(struct front *front)
{
    return front->page_count;
}

uint32_t front_slots(struct front *front)
{
    return front->slots;
}

uint32_t front_in_flight(struct front *front)
{
    return front->slots - front->free_shadow_count;
}

void front_counters(struct front *front, struct front_counters *out)
{
    *out = front->counters;
}

void front_stop(struct front *front)
{
    uint64_t one = 1;
    __atomic_store_n(&front->stop, 1, __ATOMIC_SEQ_CST);
    /* A full counter wakes too, so the result does not matter. */
    if (write(front->stop_fd, &one, sizeof one) < 0)
        return;
}

void front_resume(struct front *front)
{
    uint64_t count;
    __atomic_store_n(&front->stop, 0, __ATOMIC_SEQ_CST);
    if (read(front->stop_fd, &count, sizeof count) < 0)
        return;
}

int front_raw_submit(struct front *front, const uint8_t *slot, uint32_t length, int publish)
{
    uint32_t index = front->req_prod & (front->slots - 1);
    if (length > front->layout.slot)
        return -EINVAL;
    memcpy(front->params.ring + RING_HEADER + (size_t)index * front->layout.slot, slot, length);
    front->req_prod++;
    front->counters.requests++;
    return publish ? front_push(front) : 0;
}

int front_raw_response(struct front *front, uint8_t *slot, uint32_t length)
{
    uint32_t produced = front_raw_index(front, RING_RSP_PROD);
    uint32_t index = front->rsp_cons & (front->slots - 1);
    if (length > front->layout.slot)
        return -EINVAL;
    if (produced == front->rsp_cons)
        return 0;
    memcpy(slot, front->params.ring + RING_HEADER + (size_t)index * front->layout.slot, length);
    front->rsp_cons++;
    front->counters.responses++;
    return 1;
}

int front_raw_wait(struct front *front, uint64_t timeout_ns)
{
    return front_wait(front, 0, timeout_ns, 1);
}

uint32_t front_raw_index(struct front *front, uint32_t offset)
{
    return load_acquire32((volatile uint32_t *)(void *)(front->params.ring + offset % RING_HEADER));
}

void front_raw_poke(struct front *front, uint32_t offset, uint32_t value)
{
    store_release32((volatile uint32_t *)(void *)(front->params.ring + offset % RING_HEADER), value);
}

int front_raw_notify(struct front *front)
{
    front->counters.notifies++;
    return front->params.ops->notify(front->params.ops->evtchn, front->params.port);
}
