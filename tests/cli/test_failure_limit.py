"""--max-failures over an interruption: what failed earlier counts."""

from __future__ import annotations

from cli_kit import predict, rows, write_images


def test_failures_before_a_resume_count(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "o.jsonl"
    write_images(photos, 300)
    (photos / "00000.png").write_bytes(b"no image")
    job = ["--source", photos, "--output", output]

    stopped = predict(*job, "--max-failures", 0)
    assert stopped.returncode == 3 and not output.exists()

    # The bad image is not run again, and not forgotten: 0.1 % of 300 allows none.
    done = predict(*job, "--resume", "--max-failures", "0.1%")
    assert done.returncode == 3 and b"1 of 300" in done.stderr
    written = rows(output)
    assert [row["image"] for row in written] == [f"{i:05}.png" for i in range(300)]
    assert sum(row["error"] is not None for row in written) == 1


def test_a_resume_within_the_limit_is_done(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "o.jsonl"
    write_images(photos, 300)
    (photos / "00000.png").write_bytes(b"no image")
    job = ["--source", photos, "--output", output]
    assert predict(*job, "--max-failures", 0).returncode == 3
    assert predict(*job, "--resume", "--max-failures", "1%").returncode == 0
    assert len(rows(output)) == 300
