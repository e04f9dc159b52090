/* SPDX-License-Identifier: MIT */
/* Bounce buffers, see bounce.h. */
#define _GNU_SOURCE
#include "worker/plane/bounce.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int plane_bounce_open(struct plane_bounce *bounce, uint32_t count, size_t bytes)
{
    void *memory;

    if (count > PLANE_BOUNCE_MAX)
        return -EINVAL;
    memory = mmap(NULL, count * bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    *bounce = (struct plane_bounce){
        .memory = memory, .bytes = bytes, .count = count, .free = count};
    /* A stack, lowest on top: few of them in use at a time touch little memory. */
    for (uint32_t i = 0; i < count; i++)
        bounce->stack[i] = (int16_t)(count - 1 - i);
    return 0;
}

void plane_bounce_trim(struct plane_bounce *bounce)
{
    if (bounce->used && bounce->free == bounce->count) {
        madvise(bounce->memory, bounce->count * bounce->bytes, MADV_DONTNEED);
        bounce->used = false;
    }
}

void plane_bounce_close(struct plane_bounce *bounce)
{
    if (bounce->memory)
        munmap(bounce->memory, bounce->count * bounce->bytes);
    memset(bounce, 0, sizeof(*bounce));
}
