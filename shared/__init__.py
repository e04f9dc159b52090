# SPDX-License-Identifier: MIT
"""What supervisor and worker must agree on, and nothing else."""
