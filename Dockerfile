# docker build -t groundwire .
# docker run --init -p 8000:8000 -v groundwire-cache:/home/groundwire/.cache groundwire
#
# Settings are --env GROUNDWIRE_MAX_QUEUE=128 and the like; leave the port and map it. The model is fetched at the first
# start, into the volume. Anything else: docker run -it -v groundwire-cache:/home/groundwire/.cache groundwire groundwire demo
FROM python:3.11.14-slim-bookworm AS build

# Where the default index brings torch with CUDA, name one that holds its CPU build: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=""
# "server,otel" sends traces as well.
ARG EXTRAS="server"

RUN python -m venv /groundwire
WORKDIR /src
COPY constraints.txt pyproject.toml LICENSE README.md ./
COPY detector detector
COPY server server
COPY training training
RUN /groundwire/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

FROM python:3.11.14-slim-bookworm

COPY --from=build /groundwire /groundwire
RUN useradd --uid 10001 --create-home groundwire && install -d -o groundwire /home/groundwire/.cache
USER 10001
WORKDIR /home/groundwire
VOLUME /home/groundwire/.cache

ENV PATH=/groundwire/bin:$PATH \
    HOME=/home/groundwire \
    PYTHONUNBUFFERED=1 \
    MALLOC_TRIM_THRESHOLD_=4000000000 \
    MALLOC_MMAP_THRESHOLD_=4000000000

EXPOSE 8000
# Ten minutes for the first start, which fetches the model.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["groundwire", "serve", "--host", "0.0.0.0"]
