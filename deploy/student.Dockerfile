# The trainer, on a CPU. From the repository root:
#
#   docker build -f deploy/student.Dockerfile -t vgs-opd-student .
#   docker run --rm vgs-opd-student train --help
#
# As teacher.Dockerfile up to and including torch, so that the two share these layers in the build cache.

FROM python:3.11-slim AS requirements
WORKDIR /src
COPY pyproject.toml deploy/requirements.py ./
RUN python requirements.py student > requirements.txt

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
COPY student_trainer student_trainer
RUN pip --python /opt/venv install --no-cache-dir --no-deps --target /opt/vgs-opd .

FROM python:3.11-slim
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /opt/vgs-opd /opt/vgs-opd
# HOME is where a hub model's files go; under a read-only root /tmp is all there is to write to.
ENV PATH=/opt/vgs-opd/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/vgs-opd \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
# A number, so that "must not be root" can be checked from outside. Nothing in the image belongs to it: any other
# number runs it as well.
USER 1000:1000
WORKDIR /app
STOPSIGNAL SIGTERM
ENTRYPOINT ["student-trainer"]
CMD ["--help"]
