"""Protection from requests that a browser makes for a page of another site, with credentials that the browser keeps.

A page can make a browser send a form, or a body in one of the types of forms or without a type, to any host. The
browser adds the credentials that it keeps for that host. Before it sends any other type, the browser asks the host for
permission, which this daemon does not give.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request

from nipap.attributes import shown
from nipap.errors import AuthorizationFailedError, NipapMediaTypeError

XML_TYPES = ('text/xml', 'application/xml')
_OWN = ('same-origin', 'none')  # a page of this host, and no page at all


def refuse_other_sites(request: Request) -> None:
    """Refuse a request that a browser makes for a page of another site.

    :raises AuthorizationFailedError: the browser declares a cross-site request.
    """
    if _site(request) == 'cross-site':
        raise AuthorizationFailedError('Cross-site requests from web pages are not accepted')


def require_xml(request: Request) -> None:
    """Refuse a body of another type than XML.

    A body without a type is accepted, because very old clients send no type. Browsers can be made to leave the type
    out too, so a body without a type is refused from pages of other origins.

    :raises NipapMediaTypeError: naming the type. AuthorizationFailedError: a page of another origin sends no type.
    """
    if request.environ.get('CONTENT_TYPE') in XML_TYPES or request.mimetype in XML_TYPES:
        return
    if request.environ.get('CONTENT_TYPE'):
        raise NipapMediaTypeError(
            f'Content-Type {shown(request.mimetype)} is not supported, {" and ".join(XML_TYPES)} are'
        )
    if _is_for_another_page(request):
        raise AuthorizationFailedError('Requests without Content-Type are not accepted from web pages, send text/xml')


def _is_for_another_page(request: Request) -> bool:
    """Return whether a browser declares that a page of another origin makes the request."""
    if site := _site(request):
        return site not in _OWN
    origin = request.environ.get('HTTP_ORIGIN')
    return origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()


def _site(request: Request) -> str:
    site: str = request.environ.get('HTTP_SEC_FETCH_SITE', '')
    return site.strip().lower()
