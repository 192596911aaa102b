# VideoReasoner on a CPU.
#   docker build -t videoreasoner .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" videoreasoner ask video.mp4 "What happens?"
# Models from the Hugging Face hub are kept in /cache: add `-v videoreasoner-cache:/cache` to keep them.
FROM python:3.11-slim AS build

WORKDIR /source
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --upgrade pip
# The CPU build of torch: some 200 MB instead of several GB. It comes first because it changes least.
COPY constraints.txt .
RUN /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim

COPY --from=build /opt/venv /opt/venv
RUN useradd --create-home --uid 1000 reasoner \
    && mkdir /work /cache \
    && chown reasoner /work \
    && chmod 1777 /cache
ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/cache/huggingface \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["videoreasoner"]
CMD ["--help"]
