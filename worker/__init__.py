# SPDX-License-Identifier: MIT
"""One process per device: entry point, ring loop, device types, native data plane."""
