"""`keystile clients`: the operator's own clients."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keystile_auth.cli.session import CommandError, Session, open_session, run
from keystile_auth.clients import metadata
from keystile_auth.clients.client import AUTH_METHODS, Client, Source
from keystile_auth.clients.registration import hash_secret, new_client_id, new_secret
from keystile_auth.errors import OAuthError
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grants import GrantStore
from keystile_common.audit import Actor, EventType
from keystile_common.store import every_step

app = typer.Typer(help="Clients that were set up beforehand.", no_args_is_help=True, rich_markup_mode=None)


@app.command("add")
def add(
    name: str,
    redirect_uri: Annotated[list[str] | None, typer.Option(help="Where users are sent back to; repeatable.")] = None,
    auth_method: Annotated[str, typer.Option(help=f"One of {', '.join(AUTH_METHODS)}.")] = "client_secret_basic",
    resource: Annotated[
        list[str] | None,
        typer.Option(help="For client_credentials: a resource it may get tokens for; repeatable."),
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="For client_credentials: a scope it may have; repeatable.")
    ] = None,
    jwks_file: Annotated[Path | None, typer.Option(help="For private_key_jwt: the client's public key set.")] = None,
) -> None:
    """Add a client. With --redirect-uri it signs users in, with --resource and --scope it acts for itself."""

    async def work() -> tuple[Client, str | None]:
        async with open_session() as session:
            client, secret = _build(
                session,
                name,
                redirect_uri or [],
                auth_method,
                resource or [],
                scope or [],
                _read_keys(jwks_file),
            )
            await ClientStore(session.store).add(client.id, client.to_json(), seconds=None)
            target = {"client_id": client.id, "name": client.name}
            session.audit.record(EventType.CLIENT_REGISTERED, "success", Actor(), reason="operator", target=target)
            return client, secret

    client, secret = run(work())
    typer.echo(f"client_id      {client.id}")
    if secret:
        typer.echo(f"client_secret  {secret}   (shown this once; only its hash is kept)")


@app.command("list")
def list_clients() -> None:
    """List the clients that were added here; those that registered themselves are not listed."""

    async def work() -> list[Client]:
        async with open_session() as session:
            store = ClientStore(session.store)
            documents = [await store.find(each) for each in await store.all_listed()]
            return [Client.from_json(each) for each in documents if each]

    for client in run(work()):
        typer.echo(f"{client.id}\t{client.name}\t{','.join(client.grant_types)}\t{client.auth_methods[0]}")


@app.command("show")
def show(client_id: str) -> None:
    """Show a client, but no secret."""

    async def work() -> Client:
        async with open_session() as session:
            return await _find(session, client_id)

    client = run(work())
    shown = {key: value for key, value in json.loads(client.to_json()).items() if not key.endswith("_hash")}
    typer.echo(json.dumps(shown, indent=2))


@app.command("delete")
def delete(client_id: str) -> None:
    """Delete a client with every grant and token it has."""

    async def work() -> int:
        async with open_session() as session:
            if await ClientStore(session.store).find(client_id) is None:
                # It may be gone in the store's memory only, as the last try will have said.
                await ClientStore(session.store).confirm_deleted(client_id)
            client = await _find(session, client_id)
            grants = GrantStore(session.store)
            # Grants first: cut short, it can be done again. And once more, for what began in between.
            ended = await grants.end_all_of_client(client.id, "client_deleted")
            with every_step("client.delete"):
                await ClientStore(session.store).delete(client.id)
                ended += await grants.end_all_of_client(client.id, "client_deleted")
                session.audit.record(EventType.CLIENT_DELETED, "success", Actor(client_id=client.id), reason="operator")
            return ended

    typer.echo(f"{client_id} is deleted; {run(work())} grants and tokens ended.")


def _build(
    session: Session,
    name: str,
    redirect_uris: list[str],
    auth_method: str,
    resources: list[str],
    scopes: list[str],
    jwks: dict[str, Any] | None,
) -> tuple[Client, str | None]:
    if auth_method not in AUTH_METHODS:
        raise CommandError(f"--auth-method must be one of {', '.join(AUTH_METHODS)}.")
    if (auth_method == "private_key_jwt") != (jwks is not None):
        raise CommandError("--auth-method private_key_jwt and --jwks-file go together.")
    if not redirect_uris and not resources:
        raise CommandError(
            "Give --redirect-uri for a client that signs users in, "
            "or --resource and --scope for one that acts for itself."
        )
    secret = new_secret() if auth_method.startswith("client_secret") else None
    grant_types = (("authorization_code", "refresh_token") if redirect_uris else ()) + (
        ("client_credentials",) if resources else ()
    )
    client = Client(
        id=new_client_id(),
        name=name,
        source=Source.OPERATOR,
        redirect_uris=_redirect_uris(session, name, redirect_uris),
        auth_methods=(auth_method,),
        grant_types=grant_types,
        jwks=jwks,
        secret_hash=hash_secret(secret) if secret else None,
        issued=int(time.time()),
        **_bounds(session, auth_method, resources, scopes),
    )
    return client, secret


def _redirect_uris(session: Session, name: str, uris: list[str]) -> tuple[str, ...]:
    if not uris:
        return ()
    document = {"redirect_uris": uris, "client_name": name}
    try:
        return metadata.check(document, session.settings.registration.private_use_schemes, ("none",)).redirect_uris
    except OAuthError as problem:
        raise CommandError(f"{problem.description}.") from None


def _bounds(session: Session, auth_method: str, resources: list[str], scopes: list[str]) -> dict[str, Any]:
    if not resources:
        if scopes:
            raise CommandError("--scope needs --resource.")
        return {}
    if auth_method == "none":
        raise CommandError("A client that acts for itself must authenticate; --auth-method none cannot.")
    known = {each.uri: set(each.scopes) for each in session.settings.all_resources.values()}
    unknown = [uri for uri in resources if uri not in known]
    if unknown:
        raise CommandError(f"{unknown[0]} is not a resource of this server; known: {', '.join(known)}.")
    offered = set().union(*(known[uri] for uri in resources))
    wrong = [each for each in scopes if each not in offered]
    if wrong or not scopes:
        raise CommandError(f"--scope must name scopes of the resources: {', '.join(sorted(offered))}.")
    return {"resources": tuple(resources), "scopes": tuple(scopes)}


def _read_keys(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        document = json.loads(path.read_text())
        metadata.check_key_set(document)
    except OSError as problem:
        raise CommandError(f"{path} cannot be read: {problem.strerror}.") from None
    except ValueError:
        raise CommandError(f"{path} is not JSON.") from None
    except OAuthError as problem:
        raise CommandError(f"{path}: {problem.description}.") from None
    return {"keys": document["keys"]}


async def _find(session: Session, client_id: str) -> Client:
    document = await ClientStore(session.store).find(client_id)
    if document is None:
        raise CommandError(f"There is no client {client_id}; `keystile clients list` shows those added here.")
    return Client.from_json(document)
