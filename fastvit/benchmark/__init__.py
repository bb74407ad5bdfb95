"""Measuring speed: suites in YAML, networks and engines to measure, turns in processes of their own, reports.

Needs the extra `train`; ONNX Runtime and OpenVINO are measured where they are installed.
"""
