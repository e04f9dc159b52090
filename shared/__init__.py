# SPDX-License-Identifier: MIT
"""What the supervisor and the workers must agree on, and nothing else."""
