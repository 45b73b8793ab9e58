# One image for every service of docker-compose.yml. The build stage has the tools, the image only what they made.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# Where pip takes torch from: PyTorch's index for the CPU makes a small image, the one for a CUDA version fits a driver.
# Empty: pip's usual index, whose torch for Linux carries CUDA.
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/hpsearch/bin:$PATH
RUN python -m venv /opt/hpsearch
WORKDIR /src
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
COPY pyproject.toml README.md LICENSE ./
COPY search_spaces search_spaces
COPY hpsearch hpsearch
RUN pip install -c constraints.txt '.[postgresql,mysql,ray]'

FROM python:${PYTHON_VERSION}-slim
ARG UID=1000
RUN useradd --uid "$UID" --create-home hpsearch && install -d -o hpsearch -g hpsearch /studies /cache
COPY --from=build /opt/hpsearch /opt/hpsearch
ENV PATH=/opt/hpsearch/bin:$PATH PYTHONUNBUFFERED=1 \
    HPSEARCH_STUDIES_DIR=/studies HPSEARCH_CACHE_DIR=/cache RAY_USAGE_STATS_ENABLED=0
USER hpsearch
WORKDIR /home/hpsearch
CMD ["hpsearch", "--help"]
