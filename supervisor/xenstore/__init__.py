# SPDX-License-Identifier: MIT
"""What the supervisor reads from xenstore and writes to it. Knows neither workers nor policy."""
