/* SPDX-License-Identifier: MIT */
/* Grants through libxengnttab, and the table of calls for a data plane. */
#include "xen.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shared/native/hv_ops_over.h"

int xen_gnttab_open(const struct xen_gnttab_calls *calls, struct xen_gnttab **out)
{
    struct xen_gnttab *gnttab = calloc(1, sizeof(*gnttab));

    if (!gnttab)
        return -ENOMEM;
    gnttab->calls = *calls;
    errno = EIO;
    gnttab->handle = calls->open(xen_silence(), 0);
    if (!gnttab->handle) {
        int error = errno;

        free(gnttab);
        return -error;
    }
    *out = gnttab;
    return 0;
}

void xen_gnttab_close(struct xen_gnttab *gnttab)
{
    while (gnttab->areas) {
        struct xen_area *area = gnttab->areas;

        gnttab->areas = area->next;
        gnttab->calls.unmap(gnttab->handle, area->address, area->count);
        free(area);
    }
    gnttab->calls.close(gnttab->handle);
    free(gnttab);
}

int xen_gnttab_set_max_grants(struct xen_gnttab *gnttab, uint32_t count)
{
    return gnttab->calls.set_max_grants(gnttab->handle, count) < 0 ? -errno : 0;
}

static void *map_refs(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                      uint32_t count, int writable)
{
    errno = EIO;
    return gnttab->calls.map_domain_grant_refs(gnttab->handle, count, domid,
                                               (uint32_t *)(uintptr_t)refs,
                                               PROT_READ | (writable ? PROT_WRITE : 0));
}

/* Read a byte of each page: a copy tells the status per reference, which a map does not. */
static int read_probe(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                      uint32_t count, int16_t *statuses)
{
    struct hv_copy *elements = calloc(count, sizeof(*elements));
    uint8_t byte;
    uint32_t i;
    int result;

    if (!elements)
        return -ENOMEM;
    for (i = 0; i < count; i++)
        elements[i] = (struct hv_copy){.local = &byte, .ref = refs[i], .length = 1};
    result = xen_gnttab_copy(gnttab, domid, elements, count);
    for (i = 0; i < count; i++)
        statuses[i] = elements[i].status;
    free(elements);
    return result;
}

/*
 * Why a map failed: which references are not granted at all, and which of the others are granted
 * read-only. Returns the number of those; 0 if it was not their fault. Costs a call per good
 * reference, so it is for failures only.
 */
static uint32_t find_culprits(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                              uint32_t count, int writable, int16_t *statuses)
{
    uint32_t culprits = 0, i;

    if (read_probe(gnttab, domid, refs, count, statuses) < 0)
        return 0;
    for (i = 0; i < count; i++) {
        if (statuses[i] == HV_GNT_OKAY && writable) {
            void *page = map_refs(gnttab, domid, &refs[i], 1, 1);

            if (page)
                gnttab->calls.unmap(gnttab->handle, page, 1);
            else if (errno == EINVAL || errno == EACCES || errno == EPERM)
                statuses[i] = HV_GNT_PERMISSION_DENIED;
        }
        if (statuses[i] != HV_GNT_OKAY)
            culprits++;
    }
    return culprits;
}

/* Keep `error` only if no reference was at fault; then each gets the general status. */
static void explain(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                    uint32_t count, int writable, int16_t *statuses, int error)
{
    if (statuses) {
        if (find_culprits(gnttab, domid, refs, count, writable, statuses)) {
            error = EINVAL;
        } else {
            for (uint32_t i = 0; i < count; i++)
                statuses[i] = HV_GNT_GENERAL_ERROR;
            if (error == EINVAL)
                error = EIO; /* EINVAL says that the statuses tell why */
        }
    }
    errno = error;
}

/* See hv_ops.h: map. errno is EINVAL if the references are to blame. */
void *xen_gnttab_map(struct xen_gnttab *gnttab, uint16_t domid, const uint32_t *refs,
                     uint32_t count, int writable, int16_t *statuses)
{
    struct xen_area *area = malloc(sizeof(*area));
    uint32_t i;

    if (!area)
        return NULL;
    area->address = map_refs(gnttab, domid, refs, count, writable);
    if (!area->address) {
        free(area);
        explain(gnttab, domid, refs, count, writable, statuses, errno);
        return NULL;
    }
    area->count = count;
    area->next = gnttab->areas;
    gnttab->areas = area;
    for (i = 0; statuses && i < count; i++)
        statuses[i] = HV_GNT_OKAY;
    return area->address;
}

/* Give a whole area back, exactly as it was mapped. */
int xen_gnttab_unmap(struct xen_gnttab *gnttab, void *address, uint32_t count)
{
    struct xen_area **link = &gnttab->areas;
    struct xen_area *area;

    while (*link && (*link)->address != address)
        link = &(*link)->next;
    area = *link;
    if (!area || area->count != count)
        return -EINVAL;
    *link = area->next;
    free(area);
    return gnttab->calls.unmap(gnttab->handle, address, count) < 0 ? -errno : 0;
}

static void fill_segment(struct xen_copy_segment *segment, uint16_t domid,
                         const struct hv_copy *element)
{
    union xen_copy_end here = {.virt = element->local};
    union xen_copy_end there = {.foreign = {element->ref, element->offset, domid}};

    *segment = (struct xen_copy_segment){
        .source = element->to_guest ? here : there,
        .dest = element->to_guest ? there : here,
        .len = element->length,
        .flags = element->to_guest ? XEN_COPY_DEST_GREF : XEN_COPY_SOURCE_GREF,
        .status = HV_GNT_GENERAL_ERROR,
    };
}

static int copy_batch(struct xen_gnttab *gnttab, struct hv_copy *elements, uint32_t count)
{
    uint32_t i;

    if (!count)
        return 0;
    if (gnttab->calls.grant_copy(gnttab->handle, count, gnttab->segments) < 0)
        return -errno;
    for (i = 0; i < count; i++)
        elements[gnttab->index[i]].status = gnttab->segments[i].status;
    return 0;
}

/* See hv_ops.h: copy. */
int xen_gnttab_copy(struct xen_gnttab *gnttab, uint16_t domid, struct hv_copy *elements,
                    uint32_t count)
{
    uint32_t used = 0, i;
    int result = 0;

    for (i = 0; i < count; i++)
        elements[i].status = HV_GNT_GENERAL_ERROR;
    for (i = 0; i < count && !result; i++) {
        /* The kernel would refuse the whole call. */
        if ((uint32_t)elements[i].offset + elements[i].length > HV_PAGE_SIZE) {
            elements[i].status = HV_GNT_BAD_COPY_ARG;
            continue;
        }
        fill_segment(&gnttab->segments[used], domid, &elements[i]);
        gnttab->index[used++] = i;
        if (used == XEN_COPY_BATCH) {
            result = copy_batch(gnttab, elements, used);
            used = 0;
        }
    }
    return result ? result : copy_batch(gnttab, elements, used);
}

HV_OPS_OVER(xen_fill_ops, xen_evtchn, xen_gnttab)
