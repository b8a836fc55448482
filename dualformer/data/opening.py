"""How a file is handed to FFmpeg: as a file, whatever its name looks like, and as one of the formats that hold videos.

FFmpeg reads more than a video reader should: a name with a colon is an address of the net to it, and a file whose
content is a playlist makes it open other files and addresses. So names are made absolute, and formats and protocols are
listed here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

import av

# Containers and raw streams of pictures that FFmpeg reads without opening further files, and the commonest of sound,
# which are then called that. Neither pictures (`*_pipe`) nor playlists (hls, concat, dash) nor text (tty).
_FORMATS = (
    "3gp,aac,ac3,amr,ape,apng,asf,asf_o,av1,avi,cavsvideo,dirac,dv,eac3,flac,flv,gif,h261,h263,h264,hevc,ivf,live_flv,"
    "m4v,matroska,mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,rm,swf,vc1,vc1test,vvc,w64,wav,webm,wtv,"
    "yuv4mpegpipe"
)
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
# HMDB51 has files whose metadata isn't valid UTF-8. PyAV since 19 always reads them so, and has no such argument.
_BEFORE_19: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


@contextlib.contextmanager
def address(path: str | os.PathLike[str]) -> Iterator[str]:
    """What any decoder opens as this very file, while the block lasts.

    An absolute path never looks like an address (`clips:2026/a.mp4` does). A name that isn't UTF-8 can't be said to a
    decoder at all; the system's name of the open file can.

    Raises:
        OSError: such a file can't be opened.
    """
    absolute = os.path.abspath(path)
    try:
        absolute.encode()
    except UnicodeEncodeError:
        with open(absolute, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield absolute


@contextlib.contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """A video file, open in PyAV.

    Raises:
        av.FFmpegError: it can't be opened.
        ValueError: it is none of the formats that are read here.
    """
    with address(path) as place:
        try:
            container = av.open(place, container_options=_OPTIONS, **_BEFORE_19)
        except av.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ValueError("neither a video nor sound, but a picture, a playlist or text") from error
        with container:
            yield container
