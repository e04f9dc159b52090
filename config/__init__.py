# SPDX-License-Identifier: MIT
"""The configuration: typed model, loader, default file, JSON Schema and systemd units."""
