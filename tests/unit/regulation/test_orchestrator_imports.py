import subprocess
import sys


def test_the_process_of_the_orchestrator_does_not_load_torch():
    """It is small, and handles no weights: tasks do, in processes of their own."""
    script = "import sys, pipelines.regulation.orchestrator; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
