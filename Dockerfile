# docker build -t groundwire .
# docker run -it -v groundwire-cache:/home/groundwire/.cache groundwire groundwire demo
FROM python:3.11-slim

# Where the default index brings torch with CUDA, name one that holds its CPU build: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=""

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt .

RUN useradd --create-home groundwire && install -d -o groundwire /home/groundwire/.cache
USER groundwire
WORKDIR /home/groundwire
VOLUME /home/groundwire/.cache

ENV MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000
CMD ["groundwire", "--help"]
