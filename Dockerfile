# Two images from one file: `serve`, the default, which holds no torch, and `train`.
#   docker build --tag frostline:serve .
#   docker build --tag frostline:serve-cuda --build-arg EXTRAS=cuda .
#   docker build --tag frostline:train --target train .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
# To install from an index of your own, pass these with --build-arg; undefined they change nothing.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY frostline/ frostline/
COPY server/ server/
COPY training/ training/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# The environment is made at the path it will run at, because its scripts name that path. It gets no pip of its own.
FROM python:${PYTHON}-slim AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /constraints.txt
RUN python -m venv --without-pip /opt/frostline
COPY --from=wheel /wheels/ /wheels/

FROM environment AS serve-environment
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# `cuda` adds NVIDIA's libraries; the ONNX Runtime wheel itself serves both devices. `text` adds what runs tokenizers.
ARG EXTRAS=""
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/frostline/bin/python install --constraint /constraints.txt \
    "$(echo /wheels/*.whl)${EXTRAS:+[${EXTRAS}]}"
# The promise of this image, kept by its own build.
RUN /opt/frostline/bin/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

FROM environment AS train-environment
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/frostline/bin/python install --constraint /constraints.txt "$(echo /wheels/*.whl)[train]"

FROM python:${PYTHON}-slim AS runtime
# What the text pipelines of scikit-learn's converter ask for, unless they are told another locale.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends locales \
    && localedef --inputfile=en_US --charmap=UTF-8 en_US.UTF-8 \
    && rm -rf /var/lib/apt/lists/*
# A fixed number, so that a volume written by `train` can be read by `serve` and Kubernetes can check it is not root.
# A new named volume takes its owner from the folder it is mounted on, hence /models here.
RUN groupadd --gid 10001 frostline \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin frostline \
    && install --directory --owner=10001 --group=10001 /models
# ONNX Runtime's official builds report usage to their maker unless told not to before they start.
ENV PATH=/opt/frostline/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/frostline
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["frostline"]

FROM runtime AS train
COPY --from=train-environment /opt/frostline/ /opt/frostline/
CMD ["train", "--help"]

FROM runtime AS serve
COPY --from=serve-environment /opt/frostline/ /opt/frostline/
EXPOSE 8000 8001 8002
# Ready, not only alive: `docker compose up --wait` then waits for answers. http.client ignores any proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('FROSTLINE_METRICS_PORT', '8002')), timeout=3); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
CMD ["serve", "--models", "/models", "--host", "0.0.0.0"]
