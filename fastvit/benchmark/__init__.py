"""Measuring speed: suites in YAML, networks and engines to measure, turns in processes of their own, reports.

Needs the extra `benchmark`; ONNX Runtime and OpenVINO are measured where they are installed.
"""
