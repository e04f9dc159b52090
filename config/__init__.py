# SPDX-License-Identifier: MIT
"""The typed model of the YAML file, its loader, the default file and the JSON Schema."""
