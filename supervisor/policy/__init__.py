# SPDX-License-Identifier: MIT
"""What follows the end of a worker: a successor now, later, or only when the operator says so.

Pure: time and chance are passed in.
"""
