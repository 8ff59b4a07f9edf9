"""Which addresses may be connected to on a stranger's behalf."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_common.certificates import CertificateError
from keystile_common.outbound import OutboundError, PublicFetcher, is_public_address

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::5", "::ffff:8.8.8.8"]
INTERNAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
    "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.0.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:100.64.0.1",
    "fc00::1", "fd00::1", "fdff:ffff::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
    "2001:db8::1", "100::1", "2002:7f00:1::", "2002:a00:1::", "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "64:ff9b:1::1", "64:ff9b::808:808", "2001:0:808:808:0:0:80ff:fffe", "2001:0:808:808:0:0:f5ff:fffe",
    "fd00:ec2::254",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_asked(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize("address", INTERNAL)
def test_an_internal_special_or_translated_address_may_not(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_may_be_asked_only_where_a_setting_says_so(address: str) -> None:
    assert is_public_address(address, allow_loopback=True)
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "0.0.0.0", "fd00::1", "::"])
def test_allowing_loopback_allows_nothing_else(address: str) -> None:
    assert not is_public_address(address, allow_loopback=True)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_when_it_is_mapped_into_ipv6(address: object) -> None:
    assert is_public_address(f"::ffff:{address}") == is_public_address(str(address))


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://", "https://user@example.com/", "https://:x@example.com/", "ftp://x/", "x"]
)
async def test_a_url_that_is_not_plain_https_is_refused(url: str) -> None:
    async with PublicFetcher(allow_loopback=False, timeout_seconds=1) as fetcher:
        with pytest.raises(OutboundError):
            await fetcher.get(url, max_bytes=10)


async def test_authorities_that_cannot_be_read_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    fetcher = PublicFetcher(allow_loopback=False, timeout_seconds=1, ca_file=tmp_path / "none.pem")
    with pytest.raises(CertificateError, match=r"metadata_documents\.ca_file"):
        async with fetcher:
            pass
