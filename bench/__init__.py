# SPDX-License-Identifier: MIT
"""The demo and the benchmarks, each with its peer measured in the same run."""
