"""What lets ``threadpoolctl.threadpool_limits`` reach the threads of lstm_rs."""

from __future__ import annotations


def register() -> None:
    """Tell threadpoolctl of lstm_rs, where it is installed."""
    try:
        import threadpoolctl
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):
        # Before version 3.2.
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        """Finds the compiled module among the loaded libraries."""

        user_api = "lstm_rs"
        internal_api = "lstm_rs"
        filename_prefixes = ("_core",)
        # Others have a `_core`, too.
        check_symbols = ("lstm_rs_get_num_threads", "lstm_rs_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.lstm_rs_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.lstm_rs_set_num_threads(num_threads)

        def get_version(self) -> str:
            from lstm_rs._core import __version__

            return __version__

    threadpoolctl.register(Controller)
