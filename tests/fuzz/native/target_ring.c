/* SPDX-License-Identifier: MIT */
/*
 * A life of a ring: requests, indices, pokes, grants and events in any order, also while the
 * backend works; disconnects and reconnects. The promises are those of world.h.
 *
 * Input: settings (world.c), a start index, then one byte per step and what the step takes.
 */
#include "targets.h"
#include "world.h"

#define STEPS_MAX 256

static struct world world;

static void connect_again(uint8_t how)
{
    /* A live ring is taken up where it is; a guest that broke its own begins anew. */
    bool anew = world.tampered || how & 64;

    world_detach(&world);
    if (anew)
        world_new_ring(&world, how & 128 ? 0xfffffff0u : 0);
    world_attach(&world, !anew);
}

static void step(uint8_t how)
{
    switch (how & 15) {
    case 0:
    case 1:
        world_put(&world, how >> 4 & 7, 1);
        break;
    case 2:
        world_put(&world, how >> 4 & 1, 1 + take8(world.input) % 13);
        break;
    case 3:
        world_put_raw(&world);
        break;
    case 4:
        world_push(&world);
        break;
    case 5:
    case 6:
        world_push(&world);
        world_run(&world);
        break;
    case 7:
        world_run(&world);
        break;
    case 8:
        if (blk_inject_queued(world.dev))
            blk_inject_finish(world.dev, (how >> 4) % blk_inject_queued(world.dev));
        break;
    case 9:
        world_finish_jobs(&world);
        world_run(&world);
        break;
    case 10:
        connect_again(how);
        break;
    case 11:
    case 12:
        world.reflex = (struct reflex){.calls = 1 + (how >> 4), .deed = take8(world.input)};
        break;
    default:
        world_deed(&world, take8(world.input), false);
    }
}

void fuzz_ring(const uint8_t *data, size_t size)
{
    struct input input = {data, data + size};

    world_open(&world, &input);
    world_new_ring(&world, take8(&input) & 1 ? 0xfffffff0u : 0);
    world_attach(&world, false);
    for (int i = 0; i < STEPS_MAX && input_left(&input); i++)
        step(take8(&input));
    world_end(&world);
}
