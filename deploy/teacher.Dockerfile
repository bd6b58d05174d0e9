# The teacher, on a CPU. From the repository root:
#
#   docker build -f deploy/teacher.Dockerfile -t vgs-opd-teacher .
#   docker run --rm vgs-opd-teacher serve --help
#
# TORCH_INDEX is where torch and torchvision come from; any index that has these versions will do.

FROM python:3.11-slim AS requirements
WORKDIR /src
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py teacher > requirements.txt

FROM python:3.11-slim AS dependencies
RUN python -m venv --without-pip /opt/venv
# What is slow to get and seldom changes comes first: torch, the other dependencies, then the sources, which are a
# small layer of their own in the final image too.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1
RUN pip --python /opt/venv install --no-cache-dir --index-url "$TORCH_INDEX" \
    "torch==$TORCH_VERSION" "torchvision==$TORCHVISION_VERSION"
COPY --from=requirements /src/requirements.txt /
RUN pip --python /opt/venv install --no-cache-dir -r /requirements.txt

FROM dependencies AS package
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY teacher_server teacher_server
RUN pip --python /opt/venv install --no-cache-dir --no-deps --target /opt/vgs-opd .

FROM python:3.11-slim
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /opt/vgs-opd /opt/vgs-opd
COPY deploy/healthcheck.py /opt/vgs-opd/bin/
# HOME is where a hub model's files go; under a read-only root /tmp is all there is to write to.
ENV PATH=/opt/vgs-opd/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/vgs-opd \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
# A number, so that "must not be root" can be checked from outside. Nothing in the image belongs to it: any other
# number runs it as well.
USER 1000:1000
WORKDIR /app
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "/opt/vgs-opd/bin/healthcheck.py", "127.0.0.1:50051"]
ENTRYPOINT ["teacher-server"]
CMD ["--help"]
