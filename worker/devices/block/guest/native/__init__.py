# SPDX-License-Identifier: MIT
"""The frontend ring and load generator in C."""
