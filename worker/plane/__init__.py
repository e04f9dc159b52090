# SPDX-License-Identifier: MIT
"""What every data plane in C needs: event loop, I/O threads, ring indices, grants, crash marks.

C only. A device type lists the files it uses among the sources of its own native module; they know
nothing of any type. The lowest come first, and each uses only those before it:

- `clock.h`: monotonic time;
- `crash.h`: where a process marks that it dies of itself;
- `ring.h`: indices of a shared ring, and the bounds of a producer nobody trusts;
- `events.c`: one event channel;
- `grants.c`: a guest's pages, kept mapped or copied;
- `bounce.c`: buffers for what is copied;
- `pool.c`: threads for calls that have to wait;
- `loop.c`: serve, poll, sleep.
"""
