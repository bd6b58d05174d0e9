# The student. From the repository root:
#
#   docker build -f deploy/student.Dockerfile --target cpu -t vgs-opd-student .
#   docker build -f deploy/student.Dockerfile --target cuda -t vgs-opd-student-cuda .
#   docker build -f deploy/student.Dockerfile --target rollout -t vgs-opd-rollout .   # samples with vLLM
#
# Needs BuildKit. Trackers, LoRA and the hub's data sets want more: --build-arg STUDENT_EXTRAS=student,wandb,lora,hub
# torch comes from TORCH_INDEX; a build that lies in deploy/wheels/ is taken before it.
# The stages `torch`, and what `cpu` begins with, are those of teacher.Dockerfile word for word, so that the two images
# share their largest layer.
ARG PYTHON_IMAGE=python:3.11-slim
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${PYTHON_IMAGE} AS torch
RUN python -m venv --without-pip /opt/venv
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1
# What torch needs comes with the other dependencies. Headers, C++ tests and compilers of schemas serve who builds on it.
RUN --mount=type=bind,source=deploy/wheels,target=/wheels \
    pip --python /opt/venv install --no-cache-dir --no-deps --find-links /wheels --index-url "$TORCH_INDEX" \
        "torch==$TORCH_VERSION" "torchvision==$TORCHVISION_VERSION" \
    && find /opt/venv -regex '.*/site-packages/torch/\(include\|share\|test\|.*/tests\|bin/test_.*\|bin/protoc.*\|lib/.*\.a\)' \
        -prune -exec rm -rf {} +

# The index of all packages has builds for CUDA, which bring CUDA's libraries along: the host needs a driver alone.
FROM ${PYTHON_IMAGE} AS torch-cuda
RUN python -m venv --without-pip /opt/venv
ARG TORCH_CUDA_INDEX=https://pypi.org/simple
ARG TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1
RUN --mount=type=bind,source=deploy/wheels,target=/wheels \
    pip --python /opt/venv install --no-cache-dir --find-links /wheels --index-url "$TORCH_CUDA_INDEX" \
        "torch==$TORCH_VERSION" "torchvision==$TORCHVISION_VERSION" \
    && find /opt/venv -regex '.*/site-packages/torch/\(test\|.*/tests\|bin/test_.*\|bin/protoc.*\|lib/.*\.a\)' \
        -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /src
COPY pyproject.toml deploy/requirements.py ./
# Of pyproject.toml, with commas between: student,wandb,lora,hub for all that settings of a run may ask for.
ARG STUDENT_EXTRAS=student
# The rollout server's are the teacher's, less the HTTP port's.
RUN python requirements.py "$STUDENT_EXTRAS" > student.txt && python requirements.py teacher > teacher.txt \
    && grep -v -E '^(torch|fastapi|uvicorn)' teacher.txt > rollout.txt

# In /added: what comes beside torch, a layer of its own. Tests of other projects stay behind.
FROM torch AS dependencies
COPY --from=requirements /src/student.txt /
RUN touch /before \
    && pip --python /opt/venv install --no-cache-dir -r /student.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && mkdir /added && find /opt/venv ! -type d -cnewer /before -exec cp --parents -a -t /added {} +

FROM torch-cuda AS dependencies-cuda
COPY --from=requirements /src/student.txt /
RUN touch /before \
    && pip --python /opt/venv install --no-cache-dir -r /student.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && mkdir /added && find /opt/venv ! -type d -cnewer /before -exec cp --parents -a -t /added {} +

FROM ${PYTHON_IMAGE} AS package
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY student_trainer student_trainer
# The commands run in whichever Python comes first. Those of packages that are not here go.
RUN pip install --no-cache-dir --no-deps --target /opt/vgs-opd . \
    && rm /opt/vgs-opd/bin/teacher-server /opt/vgs-opd/bin/rollout-server \
    && sed -i '1s|.*|#!/usr/bin/env python3|' /opt/vgs-opd/bin/*
COPY deploy/bin /opt/vgs-opd/bin/

FROM ${PYTHON_IMAGE} AS rollout-package
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY rollout_server rollout_server
# The commands run in whichever Python comes first. Those of packages that are not here go, and so does the teacher's
# plugin, for which vLLM would look.
RUN pip install --no-cache-dir --no-deps --target /opt/vgs-opd . \
    && rm /opt/vgs-opd/bin/teacher-server /opt/vgs-opd/bin/student-trainer \
        /opt/vgs-opd/vgs_opd-*.dist-info/entry_points.txt \
    && sed -i '1s|.*|#!/usr/bin/env python3|' /opt/vgs-opd/bin/*
COPY deploy/bin /opt/vgs-opd/bin/

FROM ${VLLM_IMAGE} AS rollout
USER 0
COPY --from=requirements /src/rollout.txt /
# vLLM's own pins stay as they are: a dependency of ours that would move one ends the build.
RUN python3 -m pip list --format=freeze > /all.txt \
    && grep -E '^(torch|torchvision|transformers|vllm)==' /all.txt > /pins.txt \
    && python3 -m pip install --no-cache-dir -r /rollout.txt -c /pins.txt
COPY --from=rollout-package /opt/vgs-opd /opt/vgs-opd
# Kernels are compiled at run time, by the gcc that vLLM's image brings, and kept under HOME; so are staged weights.
RUN install -d -m 1777 /cache /app
ENV PATH=/opt/vgs-opd/bin:$PATH \
    PYTHONPATH=/opt/vgs-opd \
    HOME=/cache \
    HF_HOME=/cache/huggingface \
    USER=vgs \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /app
EXPOSE 50061
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["healthcheck.py", "127.0.0.1:50061"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vgs-opd rollout server, vLLM" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.licenses=Apache-2.0
ENTRYPOINT ["rollout-server"]
CMD ["--help"]

FROM ${PYTHON_IMAGE} AS cuda
COPY --from=torch-cuda /opt/venv /opt/venv
COPY --from=dependencies-cuda /added /
COPY --from=package /opt/vgs-opd /opt/vgs-opd
RUN install -d -m 1777 /cache /run/tokens
ENV PATH=/opt/vgs-opd/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/vgs-opd \
    HOME=/tmp \
    HF_HOME=/cache/huggingface \
    USER=vgs \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /app
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vgs-opd student, CUDA" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.licenses=Apache-2.0
ENTRYPOINT ["student-trainer"]
CMD ["--help"]

FROM ${PYTHON_IMAGE} AS cpu
COPY --from=torch /opt/venv /opt/venv
COPY --from=dependencies /added /
COPY --from=package /opt/vgs-opd /opt/vgs-opd
# Where volumes go. A new one takes their mode, so that any user can write to it.
RUN install -d -m 1777 /cache /run/tokens
# Under a read-only root HOME has to be where something is mounted; models of the hub go to /cache.
ENV PATH=/opt/vgs-opd/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/vgs-opd \
    HOME=/tmp \
    HF_HOME=/cache/huggingface \
    USER=vgs \
    PYTHONUNBUFFERED=1
# A number, so that "must not be root" can be checked from outside. Nothing in the image belongs to it: any other
# number runs it as well.
USER 1000:1000
WORKDIR /app
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vgs-opd student" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.licenses=Apache-2.0
ENTRYPOINT ["student-trainer"]
CMD ["--help"]
