"""timm's own tests of models, those of the version that is installed, on our networks."""

import shutil
import subprocess
import sys

import pytest
import timm

from reference import ENCODERS, VARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FEW = ("fastvit_t8", "fastvit_mci0")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The file of the tests, which timm's wheel lacks and its source archive has."""
    folder = tmp_path_factory.mktemp("timm")
    name = f"timm-{timm.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "timm", name.replace("-", "==")]
    done = subprocess.run(pip, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the source archive of {name} cannot be downloaded: {done.stderr.splitlines()[-1]}")
    shutil.unpack_archive(folder / f"{name}.tar.gz", folder)
    return folder / name / "tests" / "test_models.py"


@pytest.mark.parametrize("variants", [FEW, {*VARIANTS, *ENCODERS}.difference(FEW)], ids=["few", "others"])
def test_timms_own_tests_pass(suite, variants):
    """All but those that download weights. `-p fastvit` imports it before the tests ask timm for its networks."""
    names = " or ".join(sorted(variants))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "fastvit", "-p", "no:cacheprovider", suite]
    done = subprocess.run(
        [*command, "-k", f"({names}) and not pretrained"], capture_output=True, text=True, check=False, cwd=suite.parent
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    assert int(done.stdout.splitlines()[-1].split(" passed")[0]) >= 11 * len(variants)
