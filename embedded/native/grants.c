/* SPDX-License-Identifier: MIT */
/*
 * Grants. Mapping goes through the hypervisor, which checks and pins the entries; we map the
 * frames it names. Copying runs here, straight from or to the domain's memory: each entry is read
 * once, that copy of it is checked, then the bytes are moved. A domain may take a page back while
 * it is being copied; on Xen it would have to wait, here it harms its own data.
 *
 * The memory cannot shrink (it is sealed), so no access within `pages` can fault.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grant_entry.h"

#define ATTEMPTS 3

static int is_alive(const struct attachment *attachment)
{
    const struct embedded_header *header = (const void *)attachment->base;

    return __atomic_load_n(&header->alive, __ATOMIC_ACQUIRE) != 0;
}

static void detach(struct embedded *handle, struct attachment *attachment)
{
    struct attachment **link = &handle->attachments;

    while (*link != attachment)
        link = &(*link)->next;
    *link = attachment->next;
    munmap(attachment->base, (size_t)attachment->pages * HV_PAGE_SIZE);
    close(attachment->memory);
    free(attachment);
}

static void *map_memory(void *where, uint32_t count, int memory, uint32_t frame, int protection)
{
    size_t size = (size_t)count * HV_PAGE_SIZE;
    void *area = mmap(where, size, protection, MAP_SHARED | (where ? MAP_FIXED : 0), memory,
                      (off_t)frame * HV_PAGE_SIZE);

    if (area == MAP_FAILED)
        return NULL;
    /* As the mappings of gntdev: not for children, and no guest data in our core dumps. */
    madvise(area, size, MADV_DONTFORK);
    madvise(area, size, MADV_DONTDUMP);
    return area;
}

static int attach_new(struct embedded *handle, uint16_t domid, struct attachment **out)
{
    struct embedded_request request = {.op = EMBEDDED_ATTACH, .domid = domid};
    struct embedded_reply reply;
    struct attachment *fresh;
    int memory = -1;
    int result = embedded_transact(handle, &request, NULL, 0, &reply, NULL, 0, &memory, 1);

    if (result < 0)
        return result;
    if (reply.error)
        return reply.error;
    fresh = malloc(sizeof(*fresh));
    if (fresh) {
        *fresh = (struct attachment){handle->attachments, NULL, reply.serial, reply.value,
                                     reply.count, memory, domid};
        fresh->base = map_memory(NULL, fresh->pages, memory, 0, PROT_READ | PROT_WRITE);
    }
    if (!fresh || !fresh->base) {
        free(fresh);
        close(memory);
        return -ENOMEM;
    }
    handle->attachments = fresh;
    *out = fresh;
    return 0;
}

/* The memory of a living domain; -ESRCH if there is none of that id. */
static int attach(struct embedded *handle, uint16_t domid, struct attachment **out)
{
    struct attachment *known;

    for (known = handle->attachments; known; known = known->next) {
        if (known->domid != domid)
            continue;
        if (is_alive(known)) {
            *out = known;
            return 0;
        }
        /* Dead; perhaps another domain has its id now. */
        detach(handle, known);
        break;
    }
    return attach_new(handle, domid, out);
}

/* Map the frames one after another into one area; neighbours go with one call. */
static void *map_frames(const struct attachment *attachment,
                        const struct embedded_map_result *results, uint32_t count, int writable)
{
    int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    size_t size = (size_t)count * HV_PAGE_SIZE;
    uint8_t *area = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint32_t done = 0, run;

    if (area == MAP_FAILED)
        return NULL;
    while (done < count) {
        for (run = 1; done + run < count; run++)
            if (results[done + run].frame != results[done].frame + run)
                break;
        if (!map_memory(area + (size_t)done * HV_PAGE_SIZE, run, attachment->memory,
                        results[done].frame, protection)) {
            munmap(area, size);
            return NULL;
        }
        done += run;
    }
    return area;
}

/* Ask the hypervisor to check and pin: the map id, or -errno with `results` filled in on -EINVAL. */
static int pin(struct embedded *handle, uint16_t domid, const uint32_t *refs, uint32_t count,
               int writable, struct embedded_map_result *results, uint64_t *serial)
{
    struct embedded_request request = {.op = EMBEDDED_MAP, .domid = domid,
                                       .argument = writable ? 1 : 0, .count = count};
    struct embedded_reply reply;
    size_t size = count * sizeof(*results);
    int result = embedded_transact(handle, &request, refs, count * sizeof(*refs), &reply, results,
                                   size, NULL, 0);

    if (result < 0)
        return result;
    if (reply.error && reply.error != -EINVAL)
        return reply.error;
    if ((size_t)result != size) {
        handle->broken = -EPROTO;
        return -EPROTO;
    }
    *serial = reply.serial;
    return reply.error ? reply.error : (int)reply.value;
}

static void give_statuses(int16_t *statuses, const struct embedded_map_result *results,
                          uint32_t count, int error)
{
    uint32_t index;
    int16_t all = error == -ESRCH ? HV_GNT_BAD_DOMAIN : HV_GNT_GENERAL_ERROR;

    for (index = 0; statuses && index < count; index++)
        statuses[index] = error == -EINVAL ? (int16_t)results[index].status : all;
}

static int try_map(struct embedded *handle, uint16_t domid, const uint32_t *refs, uint32_t count,
                   int writable, struct embedded_map_result *results, struct area *area)
{
    struct attachment *attachment;
    uint64_t serial = 0;
    int id, attempt, result;

    for (attempt = 0; attempt < ATTEMPTS; attempt++) {
        result = attach(handle, domid, &attachment);
        if (result < 0)
            return result;
        id = pin(handle, domid, refs, count, writable, results, &serial);
        if (id < 0)
            return id;
        if (serial == attachment->serial) {
            area->address = map_frames(attachment, results, count, writable);
            area->count = count;
            area->id = (uint32_t)id;
            if (area->address)
                return 0;
            embedded_call(handle, EMBEDDED_UNMAP, 0, (uint32_t)id);
            return -ENOMEM;
        }
        /* The domain died in between, and another one has its id. */
        embedded_call(handle, EMBEDDED_UNMAP, 0, (uint32_t)id);
        detach(handle, attachment);
    }
    return -ESRCH;
}

/* See hv_ops.h: map. */
void *embedded_map(struct embedded *handle, uint16_t domid, const uint32_t *refs, uint32_t count,
                   int writable, int16_t *statuses)
{
    struct embedded_map_result *results;
    struct area *area;
    int result;

    if (count == 0 || count > EMBEDDED_MAP_MAX) {
        errno = E2BIG;
        return NULL;
    }
    results = calloc(count, sizeof(*results));
    area = malloc(sizeof(*area));
    result = results && area ? try_map(handle, domid, refs, count, writable, results, area)
                             : -ENOMEM;
    if (result < 0) {
        if (results)
            give_statuses(statuses, results, count, result);
        free(results);
        free(area);
        errno = -result;
        return NULL;
    }
    give_statuses(statuses, results, count, -EINVAL);
    free(results);
    handle->used = 1;
    area->next = handle->areas;
    handle->areas = area;
    return area->address;
}

/* Give a whole area back, exactly as it was mapped. */
int embedded_unmap(struct embedded *handle, void *address, uint32_t count)
{
    struct area **link = &handle->areas;
    struct area *area;
    int result;

    while (*link && (*link)->address != address)
        link = &(*link)->next;
    area = *link;
    if (!area || area->count != count)
        return -EINVAL;
    *link = area->next;
    munmap(area->address, (size_t)count * HV_PAGE_SIZE);
    result = embedded_call(handle, EMBEDDED_UNMAP, 0, area->id);
    free(area);
    return result;
}

static int16_t copy_one(const struct embedded *handle, const struct attachment *attachment,
                        const struct hv_copy *element)
{
    const struct grant_entry_v1 *table =
        (const void *)(attachment->base + (size_t)EMBEDDED_GRANT_FRAME * HV_PAGE_SIZE);
    struct grant_entry_v1 untrusted_entry;
    uint8_t *bytes;
    int status;

    if ((uint32_t)element->offset + element->length > HV_PAGE_SIZE)
        return HV_GNT_BAD_COPY_ARG;
    if (element->ref >= attachment->entries)
        return HV_GNT_BAD_GNTREF;
    untrusted_entry = grant_entry_read(&table[element->ref]);
    status = grant_entry_check(untrusted_entry, handle->domid, element->to_guest,
                               attachment->pages);
    if (status != HV_GNT_OKAY)
        return (int16_t)status;
    bytes = attachment->base + (size_t)untrusted_entry.frame * HV_PAGE_SIZE + element->offset;
    if (element->to_guest)
        memcpy(bytes, element->local, element->length);
    else
        memcpy(element->local, bytes, element->length);
    return HV_GNT_OKAY;
}

/* See hv_ops.h: copy. */
int embedded_copy(struct embedded *handle, uint16_t domid, struct hv_copy *elements,
                  uint32_t count)
{
    struct attachment *attachment = NULL;
    uint32_t index;
    int result = attach(handle, domid, &attachment);

    if (result < 0 && result != -ESRCH)
        return result;
    for (index = 0; index < count; index++)
        elements[index].status =
            attachment ? copy_one(handle, attachment, &elements[index]) : HV_GNT_BAD_DOMAIN;
    return 0;
}

/* Unmap everything without a word to the hypervisor: the connection is about to be closed. */
void embedded_drop_grants(struct embedded *handle)
{
    while (handle->areas) {
        struct area *area = handle->areas;

        handle->areas = area->next;
        munmap(area->address, (size_t)area->count * HV_PAGE_SIZE);
        free(area);
    }
    while (handle->attachments)
        detach(handle, handle->attachments);
}
