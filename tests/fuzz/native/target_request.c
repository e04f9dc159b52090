/* SPDX-License-Identifier: MIT */
/*
 * The request parser alone, against the oracle: every request is refused or accepted as the
 * interface says, counted once if refused, and what is accepted lies within disk and pages.
 *
 * Input: a byte of settings, the sector size and the size of the disk, then requests of one slot.
 */
#include "oracle.h"
#include "input.h"
#include "targets.h"

static uint64_t refusals(const struct blk_counters *count)
{
    return count->bad_operation + count->bad_segments + count->bad_range + count->bad_alignment +
           count->bad_discard + count->read_only;
}

static void check_segments(const struct request *request, const struct oracle_request *expected)
{
    uint64_t bytes = 0;

    CHECK(request->segments == expected->segments, "%u segments of %u", request->segments,
          expected->segments);
    for (uint32_t i = 0; i < request->segments; i++) {
        const struct segment *segment = &request->segment[i];

        CHECK(segment->ref == expected->segment[i].ref, "reference %u", segment->ref);
        CHECK(segment->offset == expected->segment[i].first * 512u, "offset %u", segment->offset);
        CHECK(segment->length && segment->offset + segment->length <= HV_PAGE_SIZE,
              "%u bytes at %u of a page", segment->length, segment->offset);
        bytes += segment->length;
    }
    CHECK(!moves_data(request) || bytes == request->length, "segments of another length");
}

static void parse_one(struct blk_dev *dev, bool layout32, const uint8_t *slot)
{
    struct oracle_request expected = oracle_read(&dev->config, layout32, slot);
    struct request request;
    uint64_t before = refusals(&dev->count);
    int16_t status;

    memset(&request, 0xa5, sizeof(request));
    status = request_parse(dev, slot, &request);
    CHECK(status == expected.status, "operation %u: %d, and not %d", slot[0], status,
          expected.status);
    CHECK(request.id == expected.id && request.operation == slot[0], "id or operation");
    CHECK(refusals(&dev->count) - before == (status != BLKIF_RSP_OKAY), "not counted once");
    CHECK(request.bounce == -1 && !request.error && !request.next, "not as a new one");
    if (status != BLKIF_RSP_OKAY)
        return;
    CHECK(request.offset == expected.sector * 512 || !expected.count, "offset");
    CHECK(request.length == expected.count * 512, "length");
    CHECK(request.offset + request.length <= dev->config.sectors * 512, "beyond the disk");
    check_segments(&request, &expected);
}

void fuzz_request(const uint8_t *data, size_t size)
{
    static struct blk_dev dev;
    struct input input = {data, data + size};
    uint8_t flags = take8(&input);
    bool layout32 = flags & 1;

    memset(&dev.count, 0, sizeof(dev.count));
    dev.layout = layout32 ? &BLKIF_32 : &BLKIF_64;
    dev.config.read_only = flags >> 1 & 1;
    dev.config.flush = !(flags & 4);
    dev.config.discard = !(flags & 8);
    dev.config.sector_size = flags & 16 ? 4096 : 512;
    dev.config.sectors = flags & 32 ? take16(&input) : take64(&input) >> 9;
    dev.config.sectors -= dev.config.sectors % (dev.config.sector_size / 512);
    do {
        /* From the heap and no longer than a slot, so that a step behind it is found. */
        uint8_t *slot = malloc(dev.layout->slot);

        for (uint32_t i = 0; i < dev.layout->slot; i++)
            slot[i] = take8(&input);
        parse_one(&dev, layout32, slot);
        free(slot);
    } while (input_left(&input));
}
