"""Places, allow-lists and addresses."""

import httpx2
import pytest

from vllm_symphony.errors import AccessDenied, InvalidArgument
from vllm_symphony.tools.origin import Allowed, Place, check_address, check_url, is_public, parse_url

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2001:4860:4860::8888"]
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "0.0.0.0", "0.1.2.3",
    "169.254.169.254", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "100.100.100.200",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
    "2002:7f00:1::", "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
    "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fe80::1%eth0",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_dialled(address: str) -> None:
    check_address(address, "example.com", 443, ())


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_may_not(address: str) -> None:
    with pytest.raises(AccessDenied, match="which is not public"):
        check_address(address, "example.com", 443, (Allowed.parse("https://example.com", private=False),))


def test_private_is_for_one_host_and_port_and_not_for_metadata() -> None:
    allow = (Allowed.parse("http://intern.example:8080", private=True),)

    for address in ("127.0.0.1", "10.1.1.1", "::1", "fd00::1", "::ffff:192.168.0.1"):
        check_address(address, "intern.example", 8080, allow)
        for host, port in (("intern.example", 80), ("other.example", 8080)):
            with pytest.raises(AccessDenied):
                check_address(address, host, port, allow)
    for address in ("169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "::ffff:169.254.169.254", "168.63.129.16"):
        with pytest.raises(AccessDenied):
            check_address(address, "intern.example", 8080, allow)


def test_a_link_local_address_is_reached_by_its_own_name_only() -> None:
    allow = (Allowed.parse("http://169.254.1.1", private=True),)

    check_address("169.254.1.1", "169.254.1.1", 80, allow)
    with pytest.raises(AccessDenied):
        check_address("169.254.169.254", "169.254.1.1", 80, allow)


@pytest.mark.parametrize(
    ("place", "url", "covers"),
    [
        ("https://a.example", "https://a.example/x?y#z", True),
        ("https://a.example", "https://A.EXAMPLE:443/x", True),
        ("https://a.example", "https://a.example./x", True),
        ("https://a.example", "http://a.example/x", False),
        ("https://a.example", "https://a.example:8443/x", False),
        ("https://a.example", "https://b.a.example/x", False),
        ("https://a.example", "https://xa.example/x", False),
        ("https://*.a.example", "https://b.a.example/x", True),
        ("https://*.a.example", "https://c.b.a.example/x", True),
        ("https://*.a.example", "https://a.example/x", False),
        ("https://*.a.example", "https://xa.example/x", False),
        ("https://a.example/v1", "https://a.example/v1", True),
        ("https://a.example/v1", "https://a.example/v1/x", True),
        ("https://a.example/v1/", "https://a.example/v1/x", True),
        ("https://a.example/v1", "https://a.example/v12", False),
        ("https://a.example/v1", "https://a.example/v1/../admin", False),
        ("https://a.example/v1", "https://a.example/v1/%2e%2e/admin", False),
        ("https://a.example/v1", "https://a.example/v1/..%2fadmin", False),
        ("https://a.example/v1", "https://a.example/v1/..;/admin", False),
        ("https://a.example/v1", "https://a.example/v1/..%5cadmin", False),
        ("https://bücher.example", "https://xn--bcher-kva.example/", True),
        ("http://[::1]:80", "http://[::1]/", True),
    ],
)
def test_a_place_covers_what_is_there(place: str, url: str, covers: bool) -> None:
    assert Place.parse(place).covers(httpx2.URL(url)) is covers


@pytest.mark.parametrize(
    "text",
    ["example.com", "ftp://a", "https://", "https://a?x=1", "https://a#f", "https://a.*.b", "https://*", "https://u:p@a", "//a"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Place.parse(text)


def test_a_template_allows_all_before_its_first_hole() -> None:
    assert Allowed.of_template("https://a.example/v1/{city}/now?x={y}", private=False).place.path == "/v1/"
    assert Allowed.of_template("https://a.example/v1/city-{name}", private=False).place.path == "/v1/"
    assert Allowed.of_template("https://a.example/v1/fixed?x={y}", private=False).place.path == "/v1/fixed"
    for template in ("https://{host}/x", "{scheme}://a/x", "https://a:{port}/"):
        with pytest.raises(InvalidArgument):
            Allowed.of_template(template, private=False)


def test_a_wildcard_is_never_private() -> None:
    with pytest.raises(InvalidArgument, match="private is for one host"):
        Allowed.parse("https://*.a.example", private=True)


def test_the_error_names_what_was_asked_for() -> None:
    with pytest.raises(AccessDenied, match=r"https://b\.example:443/x is not on the tool's allow-list"):
        check_url(httpx2.URL("https://b.example/x?secret=1"), (Allowed.parse("https://a.example", private=False),))


def test_public_is_what_the_registries_call_global() -> None:
    import ipaddress

    assert all(is_public(ipaddress.ip_address(address)) for address in PUBLIC)


@pytest.mark.parametrize(
    "host", ["a%00.example", "a b.example", "a..example", ".example", "a.example..", "-a.example", "x" * 64 + ".example", "a/b",
             "[::1", "a\tb",
             "[v1.x]", "a,b", "%2e%2e", "[fe80::1%25eth0]"],
)  # fmt: skip
def test_what_is_no_host_is_refused_before_it_is_looked_up(host: str) -> None:
    try:
        url = parse_url(f"http://{host}/")
    except InvalidArgument:
        return
    assert "/" in host and url.host == host.partition("/")[0]
