/* SPDX-License-Identifier: MIT */
/* A guest's pages, see grants.h. */
#include "worker/plane/grants.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int plane_grants_open(struct plane_grants *grants, uint32_t limit, uint32_t batch)
{
    uint32_t size = 16;

    grants->sealed = false;
    grants->limit = limit;
    grants->batch = batch;
    if (!limit)
        return 0;
    while (size < 2 * limit) /* at most half full: short probes */
        size *= 2;
    grants->mask = size - 1;
    grants->table = calloc(size, sizeof(*grants->table));
    grants->areas = calloc(limit, sizeof(*grants->areas));
    grants->missing = calloc(batch, sizeof(*grants->missing));
    grants->status = calloc(batch, sizeof(*grants->status));
    if (!grants->table || !grants->areas || !grants->missing || !grants->status) {
        plane_grants_close(grants);
        return -ENOMEM;
    }
    return 0;
}

/* Keep only the references whose status says that they were not the reason of the failure. */
static uint32_t drop_failed(struct plane_grants *grants, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (grants->status[i] == HV_GNT_OKAY)
            grants->missing[kept++] = grants->missing[i];
    }
    return kept;
}

void plane_grants_map(struct plane_grants *grants)
{
    const struct hv_ops *hv = grants->hv;
    uint32_t count = grants->missing_count;
    uint8_t *area = NULL;

    grants->missing_count = 0;
    /* All or nothing per call: once more without those that failed, then they go by copy. */
    for (int attempt = 0; attempt < 2 && count && !area; attempt++) {
        memset(grants->status, 0, count * sizeof(grants->status[0]));
        grants->maps++;
        area = hv->map(hv->gnttab, grants->domid, grants->missing, count, 1, grants->status);
        if (!area)
            count = drop_failed(grants, count);
    }
    if (!area)
        return;
    for (uint32_t i = 0; i < count; i++)
        plane_grants_find(grants, grants->missing[i])->page = area + (size_t)i * HV_PAGE_SIZE;
    grants->areas[grants->area_count++] = (struct plane_grant_area){area, count};
    grants->mapped += count;
}

void plane_grants_copy(struct plane_grants *grants, struct hv_copy *elements, uint32_t count)
{
    if (!count)
        return;
    grants->copies++;
    if (grants->hv->copy(grants->hv->gnttab, grants->domid, elements, count) >= 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        elements[i].status = HV_GNT_GENERAL_ERROR;
}

int plane_grants_close(struct plane_grants *grants)
{
    const struct hv_ops *hv = grants->hv;
    int result = 0;

    for (uint32_t i = 0; i < grants->area_count; i++) {
        int error = hv->unmap(hv->gnttab, grants->areas[i].address, grants->areas[i].count);
        if (error < 0 && !result)
            result = error;
    }
    free(grants->table);
    free(grants->areas);
    free(grants->missing);
    free(grants->status);
    *grants = (struct plane_grants){
        .hv = hv, .domid = grants->domid, .maps = grants->maps, .copies = grants->copies};
    return result;
}
