/* SPDX-License-Identifier: MIT */
/*
 * Bounce buffers: memory of ours that a guest's data is copied through. They are taken and given
 * back by number; those that were never used cost address space only.
 */
#ifndef XENBACKD_PLANE_BOUNCE_H
#define XENBACKD_PLANE_BOUNCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLANE_BOUNCE_MAX 64u

struct plane_bounce {
    uint8_t *memory; /* NULL: not open */
    size_t bytes;    /* of one buffer */
    uint32_t count, free;
    bool used; /* since the last trim */
    int16_t stack[PLANE_BOUNCE_MAX];
};

/* 0 or -errno. At most PLANE_BOUNCE_MAX buffers, of whole pages. */
int plane_bounce_open(struct plane_bounce *bounce, uint32_t count, size_t bytes);

/* Give the memory back to the host while no buffer is taken. */
void plane_bounce_trim(struct plane_bounce *bounce);

void plane_bounce_close(struct plane_bounce *bounce);

/* One must be free. */
static inline int16_t plane_bounce_take(struct plane_bounce *bounce)
{
    bounce->used = true;
    return bounce->stack[--bounce->free];
}

static inline void plane_bounce_give(struct plane_bounce *bounce, int16_t number)
{
    bounce->stack[bounce->free++] = number;
}

static inline uint8_t *plane_bounce_at(const struct plane_bounce *bounce, int16_t number)
{
    return bounce->memory + (size_t)number * bounce->bytes;
}

#endif
